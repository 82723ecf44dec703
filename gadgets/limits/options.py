"""The limits on a command line: one option each, named as in `Limits`."""

import argparse
from collections.abc import Iterable
from typing import Any

from .settings import DEFAULT, Limits

_OPTIONS: dict[str, tuple[str, Any, str]] = {
    "sessions": ("--max-sessions", int, "connections at the same time"),
    "header_s": ("--header-s", float, "silence until a session without MRD header ends"),
    "scan_s": ("--scan-s", float, "silence until a scan ends"),
    "stall_s": ("--stall-s", float, "until a client that takes no byte is given up"),
    "matrix": ("--max-matrix", int, "encoded samples along x, and rows along ky"),
    "coils": ("--max-coils", int, "receiver channels"),
    "samples": ("--max-samples", int, "samples of a readout"),
    "memory_gb": ("--max-memory-gb", float, "memory for one image of a scan"),
    "queue_gb": ("--max-queue-gb", float, "slices of a scan that wait for reconstruction"),
}
SIZES = ("matrix", "coils", "samples", "memory_gb")  # those that concern one scan alone


def add_limits(parser: argparse.ArgumentParser, names: Iterable[str] = tuple(_OPTIONS)) -> None:
    """Add options for limits, all of them unless `names` says which."""
    group = parser.add_argument_group("limits", "What one client, or one scan, may take.")
    for name in names:
        option, kind, what = _OPTIONS[name]
        default = getattr(DEFAULT, name)
        group.add_argument(
            option, dest=name, type=kind, default=default, help=f"{what} (default {default:g})"
        )


def limits_of(options: argparse.Namespace) -> Limits:
    """Return the limits that a command line asks for; ConfigError as `Limits`."""
    return Limits(**{name: getattr(options, name) for name in _OPTIONS if name in options})
