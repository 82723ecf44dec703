"""Answers to the info queries of Gadgetron's clients and test runners, in Gadgetron's formats.

Versions are ours. A runner reads what a host can do from them: memory in bytes, 1 or 0 for what is
supported, one value per GPU joined by semicolons.
"""

import ctypes
import importlib.metadata
import os
from collections.abc import Callable

UNKNOWN = "Unknown query"
NONE = "N/A"


def answer(key: str) -> str:
    """Answer an info query; keys of GPUs may take the seconds that torch takes to load."""
    known = _ANSWERS.get(key)
    return UNKNOWN if known is None else known()


def _version() -> str:
    return importlib.metadata.version("mnet-gadgets")


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _n_devices() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _each_device(attribute: Callable[[int], str]) -> str:
    return ";".join(attribute(device) for device in range(_n_devices()))


def _device_memory(device: int) -> str:
    import torch

    return str(torch.cuda.get_device_properties(device).total_memory)


def _capability(device: int) -> str:
    import torch

    return ".".join(str(part) for part in torch.cuda.get_device_capability(device))


def _runtime() -> str:
    import torch

    return (torch.version.cuda or NONE) if _n_devices() else NONE


def _driver() -> str:
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return NONE
    return f"{version.value // 1000}.{version.value % 100 // 10}"


def _info() -> str:
    values = {
        "Version": f"{_version()} (mnet-gadgets)",
        "System Memory size": f"{_memory() >> 20} MB",
        "Python Support": "YES",
        "Julia Support": "NO",
        "Matlab Support": "NO",
        "CUDA Support": "YES" if (n_devices := _n_devices()) else "NO",
    }
    if n_devices:
        values["CUDA Devices"] = str(n_devices)
    lines = [f"  -- {name:<18} : {value}\n" for name, value in values.items()]
    return "Gadgetron Version Info\n" + "".join(lines) + "\n"


_ANSWERS: dict[str, Callable[[], str]] = {
    "gadgetron::info": _info,
    "gadgetron::version": _version,
    "gadgetron::build": _version,
    "gadgetron::info::memory": lambda: str(_memory()),
    "gadgetron::info::python": lambda: "1",
    "gadgetron::info::matlab": lambda: "0",
    "gadgetron::info::cuda": lambda: str(int(_n_devices() > 0)),
    "gadgetron::cuda::devices": lambda: str(_n_devices()),
    "gadgetron::cuda::driver": _driver,
    "gadgetron::cuda::runtime": _runtime,
    "gadgetron::cuda::memory": lambda: _each_device(_device_memory),
    "gadgetron::cuda::capabilities": lambda: _each_device(_capability),
    "ismrmrd::version": lambda: importlib.metadata.version("ismrmrd"),
}
