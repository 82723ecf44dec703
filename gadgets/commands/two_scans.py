"""`mnet decide` and `mnet merge`: the adaptive scan as two, where a scanner cannot choose lines."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError

DECIDE_SUMMARY = "Decide the masks of a scan that has measured its calibration and ended."
DECIDE_MORE = """\
For scanners that cannot choose lines while they scan. The gadget, the weights, the guard and the
checks are those of the stream, and so are the masks. Budget and echo train are those of the header
where `mnet convert --seq` has put them, else of the options; docs/sequence.md has the whole way.

example: mnet decide first.h5 -o masks.json"""
MERGE_SUMMARY = "Make one scan of a calibration and of the lines that were decided from it."
MERGE_MORE = """\
`mnet replay` then makes the images that a live adaptive scan would have made, and says whether the
host gave the same masks again. With --masks, lines that are not those decided are an error.

example: mnet merge first.h5 second.h5 --masks masks.json -o scan.h5
         mnet replay scan.h5 --config adaptive_modl.xml --output images.h5"""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    _add_decide(command)
    _add_merge(command)


def _add_decide(command: Callable[..., argparse.ArgumentParser]) -> None:
    parser = command("decide", _decide, DECIDE_SUMMARY, DECIDE_MORE)
    parser.add_argument("scan", type=Path, help="the first scan: MRD, or a Siemens twix file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="masks.json")
    parser.add_argument("--acceleration", type=float, help="nominal (default: the header's, or 4)")
    parser.add_argument("--echo-train", type=int, help="lines of a shot (default: the header's)")
    parser.add_argument("--config", default="adaptive_modl.xml", help="pipeline, by its name")
    parser.add_argument("--pipelines", type=Path, help="folder whose XML files may be named, too")


def _add_merge(command: Callable[..., argparse.ArgumentParser]) -> None:
    parser = command("merge", _merge, MERGE_SUMMARY, MERGE_MORE)
    parser.add_argument("first", type=Path, help="the calibration")
    parser.add_argument("second", type=Path, help="the other lines")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.h5")
    parser.add_argument("--masks", type=Path, metavar="FILE", help="of `mnet decide`")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _decide(options: argparse.Namespace) -> int:
    """Decide, write, and say what was decided."""
    from ..files.source import open_source
    from ..mask.mask_file import write_masks
    from ..pipeline.build import load, parse_stream
    from ..two_scans.decide import decide
    from ..two_scans.plan import echo_train

    first = open_source(options.scan)
    pipeline = parse_stream(load(options.config, extra=options.pipelines)).gadgets
    train = echo_train(first) if options.echo_train is None else options.echo_train
    masks = decide(first, pipeline, acceleration=options.acceleration, train=train)
    write_masks(options.output, masks)
    hello = masks.hello
    fallbacks = sum(one.fallback for one in masks.slices)
    print(
        f"{options.output}: {len(masks.slices)} slices, {hello.n_lines} of "
        f"{len(hello.acquirable)} lines each, {len(hello.calibration)} of them calibration, in "
        f"groups of {hello.group_size}; {fallbacks} fallbacks"
    )
    return 0


def _merge(options: argparse.Namespace) -> int:
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
