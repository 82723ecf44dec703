"""The limits on a command line: one option each, named as in `Limits`."""

import argparse
from typing import Any

from .settings import Limits

_DEFAULT = Limits()
_OPTIONS: dict[str, tuple[str, Any, str]] = {
    "sessions": ("--max-sessions", int, "connections at the same time"),
    "header_s": ("--header-s", float, "silence until a session without MRD header ends"),
    "scan_s": ("--scan-s", float, "silence until a scan ends"),
    "stall_s": ("--stall-s", float, "until a client that takes no byte is given up"),
}


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add an option for every limit."""
    group = parser.add_argument_group("limits", "What one client may take of the host.")
    for name, (option, kind, what) in _OPTIONS.items():
        default = getattr(_DEFAULT, name)
        group.add_argument(
            option, dest=name, type=kind, default=default, help=f"{what} (default {default:g})"
        )


def limits_of(options: argparse.Namespace) -> Limits:
    """Return the limits that a command line asks for; ConfigError as `Limits`."""
    return Limits(**{name: getattr(options, name) for name in _OPTIONS})
