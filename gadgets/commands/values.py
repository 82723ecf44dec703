"""What an option may be: checked while the command line is read, before any work.

Each function takes the text and returns the value, or raises ArgumentTypeError with what was
expected; `Parser` makes one sentence of it.
"""

import argparse
import math
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

MOST_ACCELERATED = 32.0  # no calibration is left beyond it in any matrix that is scanned
Wrong = argparse.ArgumentTypeError


class Parser(argparse.ArgumentParser):
    """Says a mistake in one sentence, without the list of all options above it."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and end with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def number(text: str, what: str) -> float:
    """Return a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Wrong(f"expected {what}, got {text!r}")
    return value


def at_least(low: int) -> Callable[[str], int]:
    """Return a check for whole numbers from `low` on."""

    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise Wrong(f"expected a whole number, {low} or more, got {text!r}")
        return value

    return whole


positive = at_least(1)
natural = at_least(0)


def acceleration(text: str) -> float:
    """Return a nominal acceleration."""
    value = number(text, what := f"a number from 1 to {MOST_ACCELERATED:g}")
    if not 1 <= value <= MOST_ACCELERATED:
        raise Wrong(f"expected {what}, got {text}")
    return value


def duration(text: str) -> float:
    """Return a time that may be 0."""
    value = number(text, "a time, 0 or more")
    if value < 0:
        raise Wrong(f"expected a time, 0 or more, got {text}")
    return value


def long_duration(text: str) -> float:
    """Return a time above 0."""
    value = number(text, "a time above 0")
    if value <= 0:
        raise Wrong(f"expected a time above 0, got {text}")
    return value


def above_zero(text: str) -> float:
    """Return a size above 0."""
    value = number(text, "a number above 0")
    if value <= 0:
        raise Wrong(f"expected a number above 0, got {text!r}")
    return value


def angle(text: str) -> float:
    """Return an angle of any sign."""
    return number(text, "an angle")


def degrees(text: str) -> float:
    """Return a flip angle."""
    value = number(text, "an angle, above 0 and at most 180")
    if not 0 < value <= 180:
        raise Wrong(f"expected an angle, above 0 and at most 180, got {text}")
    return value


def port(text: str) -> int:
    """Return a TCP port; 0 stands for a free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise Wrong(f"expected a port, 0 to 65535, got {text!r}")
    return int(text)


def host_and_port(text: str) -> str:
    """Return HOST:PORT, where the host is known to this machine."""
    name, _, number_ = text.rpartition(":")
    if not name or not number_.isdecimal() or not 0 < int(number_) <= 65535:
        raise Wrong(f"expected HOST:PORT, as 127.0.0.1:9002, got {text!r}")
    resolved(name.strip("[]"))
    return text


def parts(text: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port of what the checks here have let pass."""
    name, _, number_ = text.rpartition(":")
    return name.strip("[]"), int(number_)


def port_at_host(text: str) -> str:
    """Return PORT or HOST:PORT."""
    port(text.rpartition(":")[2])
    if ":" in text:
        resolved(text.rpartition(":")[0].strip("[]"))
    return text


def address(text: str) -> str:
    """Return an address to listen at."""
    if text:
        resolved(text)
    return text


def resolved(name: str) -> None:
    """Raise ArgumentTypeError for a host that nobody knows."""
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Wrong(f"no host {name!r} is known here ({why})") from None


def mask_endpoint(text: str) -> str:
    """Return a ZeroMQ endpoint, with its transport."""
    if text.startswith("ipc://") and len(text) > len("ipc://"):
        return text
    expected = "expected tcp://HOST:PORT, as tcp://127.0.0.1:9004, or ipc://PATH"
    where, _, number_ = text.removeprefix("tcp://").rpartition(":")
    whole = number_ == "*" or (number_.isdecimal() and int(number_) <= 65535)
    if not text.startswith("tcp://"):
        hint = f": write tcp://{text}" if where and whole and "://" not in text else ""
        raise Wrong(f"{expected}, got {text!r}{hint}")
    if not where or not whole:
        raise Wrong(f"{expected}, got {text!r}")
    if where != "*":
        resolved(where.strip("[]"))
    return text


def device_name(text: str) -> str:
    """Return auto, cpu, cuda or cuda:N; whether it is there is not asked."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise Wrong(f"expected auto, cpu, cuda or cuda:N, got {text!r}")
    return text


def device(text: str) -> str:
    """Return a device that is there."""
    if not device_name(text).startswith("cuda"):
        return text
    import torch

    n, index = torch.cuda.device_count() if torch.cuda.is_available() else 0, int(text[5:] or 0)
    if index >= n:
        there = f"{n} there, counted from cuda:0" if n else "torch can use none here"
        raise Wrong(f"no GPU {text!r}: {there}; `mnet doctor --device {text}` says why")
    return text


def data(text: str) -> Path:
    """Return a file or folder that can be read."""
    path = Path(text)
    if not path.exists():
        raise Wrong(f"no such file or folder: {text}")
    if not os.access(path, os.R_OK):
        raise Wrong(f"{text} cannot be read by this user")
    return path


def folder(text: str) -> Path:
    """Return a folder that is there."""
    path = Path(text)
    if not path.is_dir():
        raise Wrong(f"{text} is no folder" if path.exists() else f"no such folder: {text}")
    return path


def new_file(text: str) -> Path:
    """Return a name under which a file can be written."""
    path = Path(text)
    if path.is_dir():
        raise Wrong(f"{text} is a folder, expected a file to write")
    return new_name(text)


def new_sequence(text: str) -> Path:
    """Return a name ending in .seq under which a file can be written."""
    if not text.endswith(".seq"):
        raise Wrong(f"expected a name that ends in .seq, got {text!r}")
    return new_file(text)


def new_file_or_stdout(text: str) -> Path:
    """Return a name as `new_file`, or `-`."""
    return Path(text) if text == "-" else new_file(text)


def new_name(text: str) -> Path:
    """Return the name of a file or folder that can be written; its own folder must be there."""
    path = Path(text)
    where = path.parent
    if not where.is_dir():
        raise Wrong(f"there is no folder {where} to write {path.name} to: make it first")
    if not os.access(where, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise Wrong(f"{text} cannot be written by this user")
    return path


def new_folder(text: str) -> Path:
    """Return a folder that is there or can be made, also several levels deep."""
    path = Path(text)
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise Wrong(f"{there} is a file, expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Wrong(f"{text} cannot be made or written by this user")
    return path


def header_value(text: str) -> str:
    """Return KEY=VALUE for a header."""
    from ..errors import GadgetsError
    from ..mrd.header_values import read_values

    try:
        read_values([text])
    except GadgetsError as error:
        raise Wrong(str(error)) from None
    return text


def check_by_name(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Give every option of every command its check: an option's name means one thing everywhere.

    `mnet doctor` takes what is wrong with folders, devices and keys as findings.
    """
    for name, command in commands.choices.items():
        for action in command._actions:
            check = _CHECKS.get(max((action.dest, *action.option_strings), key=len))
            if name in _OWN and (own := _OWN[name].get(action.dest)) is not None:
                check = own
            if check is None or action.nargs == 0 or action.choices is not None:
                continue
            if name == "doctor" and check not in (port, mask_endpoint):
                continue
            action.type = check
            if isinstance(action.default, Path):
                action.default = str(action.default)  # so that it is checked, too


_CHECKS: dict[str, Callable[[str], object]] = {
    "--acceleration": acceleration,
    "--address": address,
    "--bandwidth-hz": above_zero,
    "--against-recon": mask_endpoint,
    "--deadline-ms": duration,
    "--device": device,
    "--dicom": new_name,
    "--dummies": natural,
    "--echo-ms": long_duration,
    "--echo-spacing-ms": long_duration,
    "--echo-train": positive,
    "--effective-echo": positive,
    "--external": port,
    "--flip-deg": degrees,
    "--fov-mm": above_zero,
    "--gadgets": folder,
    "--grace-ms": duration,
    "--header": header_value,
    "--header-s": long_duration,
    "--host": host_and_port,
    "--idle-s": long_duration,
    "--input": data,
    "--json": new_file_or_stdout,
    "--keep": new_file,
    "--ky-center": natural,
    "--listen": mask_endpoint,
    "--mask-endpoint": mask_endpoint,
    "--mask-keys": folder,
    "--masks": data,
    "--matrix": positive,
    "--max-coils": positive,
    "--max-grad-mt-m": above_zero,
    "--max-matrix": positive,
    "--max-memory-gb": above_zero,
    "--max-samples": positive,
    "--max-sessions": positive,
    "--max-slew-t-m-s": above_zero,
    "--monitor-port": port,
    "--mrd": port_at_host,
    "--nifti": new_file,
    "--noise": new_folder,
    "--output": new_name,
    "--physics-tr-ms": long_duration,
    "--picture": new_file,
    "--pipelines": folder,
    "--port": port,
    "--records": new_folder,
    "--refocusing-deg": degrees,
    "--report": new_file,
    "--rotate-deg": angle,
    "--scan": data,
    "--scan-s": long_duration,
    "--seeds": positive,
    "--seq": data,
    "--slices": positive,
    "--spacing-mm": above_zero,
    "--stall-s": long_duration,
    "--status-port": port,
    "--stop-s": duration,
    "--thickness-mm": above_zero,
    "--tr-ms": duration,
}
_OWN: dict[str, dict[str, Callable[[str], object]]] = {
    "convert": {"source": data, "target": new_file},
    "decide": {"scan": data, "output": new_file},
    "export": {"images": data},
    "install-gadgetron": {"folder": folder},
    "keys": {"folder": new_folder},
    "merge": {"first": data, "second": data, "output": new_file},
    "recover": {"records": data},
    "replay": {"data": data},
    "scan": {"data": data},
    "sequence": {"output": new_sequence},
    "show": {"data": data, "output": new_file},
    "stream": {"output": new_file},
}
