"""The command line, `mnet`. `mnet COMMAND --help` teaches each command."""

import argparse
import importlib.metadata
import logging
import os
import sys
from typing import Any

from . import logs
from .commands import (
    before,
    conformance,
    convert,
    doctor,
    export,
    install_gadgetron,
    mask_channel,
    recover,
    replay,
    scan,
    sequence,
    serve,
    show,
    stream,
    two_scans,
    values,
)
from .errors import GadgetsError
from .worker.memory import keep_memory

# in the order of `mnet --help`
COMMANDS = (
    *(serve, mask_channel, conformance, scan, replay, stream, convert, install_gadgetron),
    *(sequence, two_scans, recover, export, show, doctor),
)
INTERRUPTED = 130  # 128 and SIGINT, as shells have it
RAW = argparse.RawDescriptionHelpFormatter


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status, not zero on any failure, 130 after Ctrl-C."""
    # Before numpy is there, for this process and those it starts: for the small products of a line
    # threads only wait for each other, and OpenBLAS's do so on the cores that masks need.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    keep_memory()
    parser = _parser()
    options = parser.parse_args(arguments)
    level = logging.WARNING if options.quiet else logging.INFO
    logs.configure(level, as_json=getattr(options, "log_json", False))
    try:
        before.check(options)
        status: int = options.run(options)
    except KeyboardInterrupt:
        print(f"mnet {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (GadgetsError, OSError) as error:
        print(f"mnet {options.command}: {error}", file=sys.stderr)
        return 1
    return status


class _Version(argparse.Action):
    """Looks up the version when it is asked for: a checkout need not be installed."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it and end."""
        print(f"mnet {importlib.metadata.version('mnet-gadgets')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = values.Parser(
        prog="mnet", description="MRI scans that adapt to the patient while they run."
    )
    parser.add_argument("--version", action=_Version, help="say which version this is, and exit")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        name: str, run: Any, summary: str, more: str = "", *, logs: bool = True
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=summary, description=f"{summary}\n\n{more}", formatter_class=RAW
        )
        command.set_defaults(run=run)
        if logs:
            command.add_argument("--quiet", action="store_true", help="warnings and errors only")
        return command

    for module in COMMANDS:
        module.add(add)
    values.check_by_name(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
