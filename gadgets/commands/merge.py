"""`mnet merge`: one scan of two."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError

SUMMARY = "Make one scan of a calibration and of the lines that were decided from it."
MORE = """\
`mnet replay` then makes the images that a live adaptive scan would have made, and says whether the
host gave the same masks again. With --masks, lines that are not those decided are an error.

example: mnet merge first.h5 second.h5 --masks masks.json -o scan.h5
         mnet replay scan.h5 --config adaptive_modl.xml --output images.h5"""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = command("merge", run, SUMMARY, MORE)
    parser.add_argument("first", type=Path, help="the calibration")
    parser.add_argument("second", type=Path, help="the other lines")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.h5")
    parser.add_argument("--masks", type=Path, metavar="FILE", help="of `mnet decide`")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(options: argparse.Namespace) -> int:
    """Merge, write, and say what was merged."""
    from ..files.source import open_source, write_mrd
    from ..mask.mask_file import read_masks
    from ..two_scans.merge import merge

    if options.output.exists() and not options.overwrite:
        raise ConfigError(f"{options.output} exists and is kept: choose another, or --overwrite")
    masks = None if options.masks is None else read_masks(options.masks)
    merged = merge(open_source(options.first), open_source(options.second), masks)
    write_mrd(options.output, merged.header, merged.acquisitions)
    n_slices = merged.geometry.n_slices
    print(f"{options.output}: {len(merged.acquisitions)} readouts in {n_slices} slices")
    return 0
