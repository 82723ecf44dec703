"""`mnet doctor`: what is wrong with an installation."""

import argparse
from collections.abc import Callable

from .options import add_folders, add_host


def add(adder: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    check = adder(
        "doctor",
        run,
        "Find what is wrong with an installation, and say what to do.",
        "Give it the options of `mnet serve`, and run it as the user that will run the host.\n"
        "Exit status 1 if a host with these options could not do its work.\n\n"
        "example: mnet doctor --records records --device cuda",
        logs=False,
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")
    check.add_argument(
        "--gadgetron",
        action="store_true",
        help="look at a C++ Gadgetron instead that shall use our pipelines; run it where and as "
        "that is started, with a client's --mask-keys",
    )
    check.set_defaults(quiet=True)
    add_host(check)
    add_folders(check)


def run(options: argparse.Namespace) -> int:
    """Look, and print what was found."""
    from ..doctor.checks import run as look

    return look(options, print)
