"""`mnet conformance`: which end is tested, and what is said of it."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .values import parts

if TYPE_CHECKING:
    from ..conformance.verdicts import Verdict


def add(adder: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    conformance = adder(
        "conformance",
        run,
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


def run(options: argparse.Namespace) -> int:
    """Run the command; the exit status is 0 only if every rule was tried and kept."""
    from ..conformance.verdicts import CONTRACT, as_json, as_text, conforms

    verdicts, notes = _sequence(options) if options.listen else (_recon(options), [])
    judged = as_json("sequence" if options.listen else "recon", verdicts)
    document = json.dumps(judged | ({"notes": notes} if notes else {}), indent=1)
    if str(options.json) == "-":
        print(document)
    else:
        print(as_text(verdicts))
        for note in notes:
            print(f"note: {note} ({CONTRACT}, section 13)")
        if options.json:
            options.json.write_text(document + "\n")
    return 0 if conforms(verdicts) else 1


def _address(options: argparse.Namespace) -> tuple[str, int]:
    host, port = parts(options.mrd)
    return host or "127.0.0.1", port


def _sequence(options: argparse.Namespace) -> "tuple[Sequence[Verdict], list[str]]":
    import zmq

    from ..conformance.sequence_bench import SequenceBench
    from ..mask.curve_keys import ServerKeys

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
        return bench.run(options.idle_s), bench.notes


def _recon(options: argparse.Namespace) -> "Sequence[Verdict]":
    from ..conformance.recon_trials import check_recon
    from ..mask.curve_keys import ClientKeys

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
