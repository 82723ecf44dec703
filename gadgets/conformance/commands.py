"""The commands of the vendor kit: `mnet keys` and `mnet conformance`."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from .verdicts import Verdict

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
    conformance = add(
        "conformance",
        _conformance,
        "Test one end of the mask channel against the contract, rule by rule.",
        "--listen plays reconstruction and MRD host to a sequence, which then runs one scan of 13\n"
        "slices or several shorter ones (with keys, one more first, which meets a wrong host).\n"
        "--against-recon plays the sequence to a running host. The contract is\n"
        "docs/mask-channel.md. Exit status 0 only if every rule was tried and kept. docs/ and\n"
        "vendor/ lie in a checkout, or in share/doc/mnet-gadgets of an installation.\n\n"
        "example: mnet conformance --listen tcp://127.0.0.1:9004 --mrd 9002\n"
        "         python vendor/sequence_client.py\n"
        "         mnet conformance --against-recon tcp://127.0.0.1:9004 --mrd 127.0.0.1:9002",
    )
    side = conformance.add_mutually_exclusive_group(required=True)
    side.add_argument("--listen", metavar="MASK_ENDPOINT", help="test a sequence that connects")
    side.add_argument("--against-recon", metavar="MASK_ENDPOINT", help="test a reconstruction")
    conformance.add_argument(
        "--mrd", default="9002", metavar="[HOST:]PORT", help="MRD: to listen on, or to connect to"
    )
    conformance.add_argument("--mask-keys", type=Path, help="our folder of keys: use CURVE")
    conformance.add_argument("--config", default="adaptive_modl.xml", help="pipeline of the host")
    conformance.add_argument(
        "--grace-ms", type=float, default=250.0, help="allowed for transport and a busy machine"
    )
    conformance.add_argument(
        "--idle-s", type=float, default=120.0, help="give up when nothing came for so long"
    )
    conformance.add_argument("--json", type=Path, help="write the verdicts here, '-' for stdout")


def _keys(options: argparse.Namespace) -> int:
    from ..mask.curve_keys import HOST, make_keys

    made = make_keys(options.folder, options.client)
    for folder in made:
        what = "stays on the host" if folder.name == HOST else "goes to this client"
        print(f"{folder}: {what}")
    if not made:
        print(f"{options.folder / HOST} is there already; name a --client to add one")
    return 0


def _conformance(options: argparse.Namespace) -> int:
    from .verdicts import as_json, as_text, conforms

    verdicts = _sequence(options) if options.listen else _recon(options)
    document = json.dumps(as_json("sequence" if options.listen else "recon", verdicts), indent=1)
    if str(options.json) == "-":
        print(document)
    else:
        print(as_text(verdicts))
        if options.json:
            options.json.write_text(document + "\n")
    return 0 if conforms(verdicts) else 1


def _address(options: argparse.Namespace) -> tuple[str, int]:
    host, _, port = options.mrd.rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"--mrd is {options.mrd!r}, expected PORT or HOST:PORT")
    return host or "127.0.0.1", int(port)


def _sequence(options: argparse.Namespace) -> "Sequence[Verdict]":
    import zmq

    from ..mask.curve_keys import ServerKeys
    from .sequence_bench import SequenceBench

    def say(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    address, port = _address(options)
    keys = ServerKeys.load(options.mask_keys) if options.mask_keys else None
    try:
        bench = SequenceBench(
            options.listen,
            port,
            address=address,
            keys=keys,
            grace_s=options.grace_ms / 1000,
            say=say,
        )
    except (OSError, ValueError, zmq.ZMQError) as error:
        raise ConfigError(f"cannot bind: {error}") from error
    with bench:
        say(f"masks on {bench.endpoint}, MRD on {address}:{bench.port}: start the sequence")
        return bench.run(options.idle_s)


def _recon(options: argparse.Namespace) -> "Sequence[Verdict]":
    from ..mask.curve_keys import ClientKeys
    from .recon_trials import check_recon

    host, port = _address(options)
    keys = ClientKeys.load(options.mask_keys) if options.mask_keys else None
    return check_recon(
        options.against_recon,
        host,
        port,
        config=options.config,
        keys=keys,
        grace_s=options.grace_ms / 1000,
        patience_s=options.idle_s,
    )
