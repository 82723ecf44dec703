"""`mnet conformance`: which end is tested, and what is said of it."""

import argparse
import json
import sys
from collections.abc import Sequence

from ..errors import ConfigError
from .verdicts import CONTRACT, Verdict, as_json, as_text, conforms


def run(options: argparse.Namespace) -> int:
    """Run the command; the exit status is 0 only if every rule was tried and kept."""
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
    host, _, port = options.mrd.rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"--mrd is {options.mrd!r}, expected PORT or HOST:PORT")
    return host or "127.0.0.1", int(port)


def _sequence(options: argparse.Namespace) -> tuple[Sequence[Verdict], list[str]]:
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
        return bench.run(options.idle_s), bench.notes


def _recon(options: argparse.Namespace) -> Sequence[Verdict]:
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
