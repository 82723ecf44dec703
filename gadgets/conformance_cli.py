"""The commands of the vendor kit: `mnet keys` and `mnet conformance`."""

import argparse
from collections.abc import Callable
from pathlib import Path

Add = Callable[..., argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """Add them to the command line; `add(name, run, summary, more)` makes a parser."""
    keys = add(
        "keys",
        _keys,
        "Make CURVE keys, so that the mask channel may leave this machine.",
        "Writes FOLDER/host for `mnet serve --mask-keys` and, per --client, a folder to hand\n"
        "to that scanner, whose public key goes on the host's allow-list. Run it again to add\n"
        "clients; nothing is ever overwritten.\n\n"
        "example: mnet keys keys --client scanner\n"
        "         mnet serve --mask-endpoint tcp://0.0.0.0:9004 --mask-keys keys/host\n"
        "         mnet scan DATA.h5 --host HOST:9002 --mask-endpoint tcp://HOST:9004 \\\n"
        "              --mask-keys keys/scanner",
    )
    keys.add_argument("folder", type=Path)
    keys.add_argument("--client", action="append", default=[], metavar="NAME")


def _keys(options: argparse.Namespace) -> int:
    from .keys import HOST, make_keys

    made = make_keys(options.folder, options.client)
    for folder in made:
        what = "stays on the host" if folder.name == HOST else "goes to this client"
        print(f"{folder}: {what}")
    if not made:
        print(f"{options.folder / HOST} is there already; name a --client to add one")
    return 0
