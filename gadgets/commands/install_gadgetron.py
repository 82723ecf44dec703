"""`mnet install-gadgetron`: our pipelines for a C++ Gadgetron, put where it looks for them."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from ..gadgetron.folder import config_folder, is_other, pipelines


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = command(
        "install-gadgetron",
        run,
        "Put our pipelines where a C++ Gadgetron looks for them.",
        "DIR is GADGETRON_HOME, as a conda environment with Gadgetron in it, or its\n"
        "share/gadgetron/config itself. Clients then name gadgetron_adaptive_modl_connect.xml,\n"
        "for which `mnet serve --external 9003` runs beside Gadgetron. `mnet doctor --gadgetron`\n"
        "says what else is missing.\n\n"
        "example: mnet install-gadgetron $CONDA_PREFIX",
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files of these names that differ"
    )


def run(options: argparse.Namespace) -> int:
    """Copy them, all or none."""
    folder = config_folder(options.folder)
    texts = pipelines()
    differ = [name for name, text in texts.items() if is_other(folder / name, text)]
    if differ and not options.overwrite:
        raise ConfigError(
            f"{folder} has other files named {', '.join(differ)}: --overwrite replaces them"
        )
    for name, text in texts.items():
        try:
            (folder / name).write_bytes(text)
        except OSError as error:
            raise ConfigError(f"{folder / name} cannot be written: {error.strerror}") from error
        print(folder / name)
    return 0
