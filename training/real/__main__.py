"""Play real scans through every sampler and every method, and write a table with pictures.

    python -m training.real                              # ../shared/data/raw, where it is there
    python -m training.real MY_SCANS --slices 3 --out runs/real
    python -m training.real --weights runs/open/weights/modl --parts table --acceleration 4 8

A place is a folder of fully sampled k-space (fastMRI or MRD HDF5) or a file. Under the deployed
mask all methods are played, under MoDL and CG-SENSE all samplers; `--full` plays every pair. Beside
the table: what must not matter (`invariances`), and whether small things survive (`inserted`). A
file that is not fully sampled is left out by name, and the exit status is 1.

With `--out STUDY/real` the rows stand first in the table of that study.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from training.real.bench import Player
from training.real.masks import read_sampler
from training.real.methods import read_methods
from training.real.results import write_found
from training.real.run import PARTS, Bench
from training.real.scans import files_in

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data" / "raw"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    torch.set_num_threads(options.threads)
    try:
        files = files_in(options.places or [DEFAULT])
        bench = _bench(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    found, pictures = bench.run(files)
    write_found(options.out, found, pictures)
    print(json.dumps(found, indent=1) if options.json else options.out / "index.html")
    return 1 if found["refused"] else 0


def _bench(options: argparse.Namespace) -> Bench:
    methods = read_methods(options.weights, options.unet)
    known = [method.name for method in methods]
    unknown = sorted(set(options.methods or ()) - set(known))
    if unknown:
        raise ValueError(f"no method {', '.join(unknown)}, there are {', '.join(known)}")
    player = Player(
        methods=[m for m in methods if m.name in (options.methods or known)],
        sampler=read_sampler(options.sampler),
        n_seeds=options.seeds,
        full=options.full,
    )
    return Bench(
        player=player,
        weights=Path(options.weights).name,
        accelerations=tuple(options.acceleration),
        n_slices=None if options.slices == "all" else int(options.slices),
        parts=options.parts,
        pictures=options.out,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("places", nargs="*", type=Path, metavar="FOLDER", help="or files")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="default: runs/real")
    parser.add_argument("--acceleration", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--slices", type=_slices, default="all", metavar="N", help="middle ones")
    parser.add_argument("--weights", default="modl", help="MoDL: a path without suffix or packaged")
    parser.add_argument("--unet", help="weights of a U-Net, which has no packaged ones")
    parser.add_argument("--sampler", default="mnet_select", help="weights of the deployed sampler")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these")
    parser.add_argument("--full", action="store_true", help="every sampler with every method")
    parser.add_argument("--seeds", type=int, default=3, help="draws of random masks (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON as well")
    return parser


def _slices(text: str) -> str:
    if text != "all" and not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of slices or all")
    return text


if __name__ == "__main__":
    sys.exit(main())
