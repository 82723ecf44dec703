"""`mnet replay`: a file or a record, sent to a host."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from .chosen_host import OUTPUT, chosen_host
from .options import add_folders, add_reading, reading


def add(adder: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    replay = adder(
        "replay",
        run,
        "Send a file or a scan record to a host, as gadgetron_ismrmrd_client would.",
    )
    replay.add_argument("data", type=Path, help="as for scan, or the folder of a record")
    replay.add_argument("--host", help="HOST:PORT; without it a host is started for the purpose")
    replay.add_argument("--mask-endpoint", help="of the running host, for records")
    replay.add_argument("--mask-keys", type=Path, help="our folder of keys, where it uses CURVE")
    replay.add_argument("--config", default="cg_sense.xml", help="pipeline of the host")
    replay.add_argument("--output", type=Path, help=OUTPUT)
    replay.add_argument("--records", type=Path, help="of the private host")
    replay.add_argument("--device", default="auto")
    add_folders(replay)
    add_reading(replay)


def run(options: argparse.Namespace) -> int:
    """Send it, keep the images, and say what came back."""
    from ..export.output import keep, planned
    from ..files.source import open_source
    from ..scanner.replay import replay

    output = planned(options.output)
    source = open_source(options.data, **reading(options))
    with chosen_host(options) as (address, _):
        result = replay(options.data, address, options.config, source=source)
    kept = keep(output, result.images, result.header)
    print(f"{len(result.images)} images of {result.n_acquisitions} acquisitions, {kept}")
    if result.n_masks:
        print(f"{result.n_equal} of {result.n_masks} masks equal those of the record")
    if result.images and not result.n_shown:
        print("mnet replay: only masks came back, and no image", file=sys.stderr)
    return 0 if result.n_shown and result.n_equal == result.n_masks else 1
