"""What `mnet doctor` looks at in the machine: packages, torch and its GPU, ports, disks."""

import argparse
import errno
import importlib.metadata
import os
import re
import shlex
import shutil
import socket
import stat
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "warning", "error"]
    check: str
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """What torch says of itself, and what the machine has."""

    version: str
    cuda: str | None  # it was built for; None: for the CPU
    n_devices: int  # it can use
    gpu: bool  # the machine has one, as far as the kernel's driver shows
    visible: str | None  # CUDA_VISIBLE_DEVICES

    @classmethod
    def look(cls) -> "Torch":
        """Ask torch; ImportError, OSError or RuntimeError where it cannot be loaded."""
        import torch

        return cls(
            version=torch.__version__,
            cuda=torch.version.cuda,
            n_devices=torch.cuda.device_count() if torch.cuda.is_available() else 0,
            gpu=Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists(),
            visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )

    @property
    def remedy(self) -> str:
        """What to do for it to see the GPU."""
        if self.cuda is None:
            return (
                f"torch {self.version} is built for the CPU: pip install --force-reinstall torch "
                "from the index of your CUDA version, https://pytorch.org/get-started/locally"
            )
        if self.visible is not None and self.visible.strip() in ("", "-1"):
            return "CUDA_VISIBLE_DEVICES hides every GPU: unset it"
        if not self.gpu:
            return (
                "no NVIDIA driver is loaded: install it; in a container: docker run --gpus all; "
                "in a systemd unit: see DeviceAllow"
            )
        return (
            f"the driver does not fit CUDA {self.cuda}, which torch {self.version} is built for: "
            "compare with `nvidia-smi`, then update the driver or install an older build of torch"
        )


def packages() -> Iterator[Finding]:
    """Look for the packages that we declare."""
    try:
        wanted = importlib.metadata.requires("mnet-gadgets") or []
    except importlib.metadata.PackageNotFoundError:
        fix = "pip install mnet-gadgets, or in a checkout: pip install -e ."
        yield Finding("error", "packages", "mnet-gadgets is not installed", fix)
        return
    missing = [line for line in wanted if not _installed(line)]
    required = [_name(line) for line in missing if "extra ==" not in line]
    demo = [_name(line) for line in missing if re.search("extra == .demo", line)]
    if required:
        fix = f"pip install {' '.join(required)}"
        yield Finding("error", "packages", f"missing: {', '.join(required)}", fix)
    elif demo:
        text = f"all that scans need; not there, for `mnet demo` only: {', '.join(demo)}"
        yield Finding("ok", "packages", text)
    else:
        yield Finding("ok", "packages", "all there")


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0]


def _installed(requirement: str) -> bool:
    try:
        importlib.metadata.version(_name(requirement))
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def cores() -> Iterator[Finding]:
    """Count the cores."""
    n = os.cpu_count() or 1
    fix = "give it two or more: on one, masks wait for the reconstruction of other slices"
    yield Finding("ok", "cores", f"{n}") if n > 1 else Finding("warning", "cores", "only 1", fix)


def torch_and_gpu(device: str) -> Generator[Finding, None, str | None]:
    """Look at torch and the GPU; returns the device to use, None where none can be."""
    try:
        torch = Torch.look()
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: no /dev/urandom
        fix = "pip install torch, or --force-reinstall it: a library that it needs is missing"
        yield Finding("error", "torch", f"torch cannot be imported: {error}", fix)
        return None
    finding = gpu(torch, device)
    yield finding
    if finding.level == "error":
        return None
    return ("cuda" if torch.n_devices else "cpu") if device == "auto" else device


def gpu(torch: Torch, device: str) -> Finding:
    """Judge whether torch can use the device that is asked for."""
    about = f"torch {torch.version}, " + (f"CUDA {torch.cuda}" if torch.cuda else "for the CPU")
    kind, _, index = device.partition(":")
    if device != "auto" and (kind not in ("cpu", "cuda") or (index and not index.isdigit())):
        return Finding("error", "torch", f"no device {device!r}", "auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return Finding("ok", "torch", f"{about}; on the CPU, as asked")
    if torch.n_devices > int(index or 0):
        return Finding("ok", "torch", f"{about}; {torch.n_devices} GPU")
    if torch.n_devices:
        text = f"{about}; {device} asked for, {torch.n_devices} GPU there, counted from cuda:0"
        return Finding("error", "torch", text, "--device cuda:0")
    if kind == "cuda":
        return Finding("error", "torch", f"{about}; no GPU can be used", torch.remedy)
    if torch.gpu:
        text = f"{about}; the machine has a GPU, which torch cannot use: the CPU reconstructs"
        return Finding("warning", "torch", text, torch.remedy)
    return Finding("ok", "torch", f"{about}; no GPU: the CPU reconstructs")


def ports(options: argparse.Namespace) -> Iterator[Finding]:
    """Try to bind everything that the host will bind."""
    host, _, mask_port = options.mask_endpoint.removeprefix("tcp://").rpartition(":")
    wanted = [
        ("--port", options.address, options.port),
        ("--external", options.address, options.external),
        ("--status-port", "127.0.0.1", options.status_port),
    ]
    if options.monitor_port != options.status_port:  # one server, which may have one port for both
        wanted.append(("--monitor-port", "127.0.0.1", options.monitor_port))
    if mask_port.isdigit():
        wanted.append(("--mask-endpoint", host.strip("[]").replace("*", ""), int(mask_port)))
    with ExitStack() as bound:  # together: two of ours may name the same port
        for option, address, port in wanted:
            if port is not None:
                yield _try_port(bound, option, address, port)


def _try_port(bound: ExitStack, option: str, address: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        bound.enter_context(socket.create_server((address, port), family=family))
    except OSError as error:
        fixes = {
            errno.EADDRINUSE: f"`ss -ltnp 'sport = :{port}'` says who has it (a Gadgetron? another "
            f"host?); stop that, or choose another {option}",
            errno.EACCES: "ports below 1024 are for root: choose another",
            errno.EADDRNOTAVAIL: "no address of this machine: see `ip -brief address`",
        }
        fix = fixes.get(error.errno or 0, f"correct {option}")
        return Finding("error", "ports", f"{option} {address}:{port}: {error.strerror}", fix)
    return Finding("ok", "ports", f"{option} {address}:{port} is free")


def disk(check: str, folder: Path | None, least: int, comfortable: int) -> Iterator[Finding]:
    """Look at a folder that the host will write to: space in bytes, and who may read it."""
    if folder is None:
        return
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    about = f"{folder}: {free / 1e9:.1f} GB free"
    make_room = f"delete old ones or choose another --{check}; one scan may take up to 8.6 GB"
    if not os.access(there, os.W_OK | os.X_OK):
        # of a folder that is there, others may depend on the owner: one below it is ours alone
        leaf = folder / "mnet" if there == folder.absolute() else folder
        fix = (
            f'sudo install -d -m 700 -o "$(id -un)" {shlex.quote(str(leaf))}, then --{check} '
            f"{shlex.quote(str(leaf))}; or choose another"
        )
        yield Finding("error", check, f"{there} cannot be written by this user", fix)
    elif free < least:
        yield Finding("error", check, f"{about}, less than {least / 1e9:.1f} GB", make_room)
    elif free < comfortable:
        yield Finding("warning", check, f"{about}, less than one full record", make_room)
    elif there == folder.absolute() and stat.S_IMODE(there.stat().st_mode) & 0o022:
        text = f"{about}; other users may write into it"
        yield Finding("warning", check, text, f"chmod go-w {folder}")
    else:
        yield Finding("ok", check, about)
