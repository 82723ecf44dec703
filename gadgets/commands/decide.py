"""`mnet decide`: masks for the second of two scans."""

import argparse
from collections.abc import Callable
from pathlib import Path

SUMMARY = "Decide the masks of a scan that has measured its calibration and ended."
MORE = """\
For scanners that cannot choose lines while they scan. The gadget, the weights, the guard and the
checks are those of the stream, and so are the masks. Budget and echo train are those of the header
where `mnet convert --seq` has put them, else of the options; docs/sequence.md has the whole way.

example: mnet decide first.h5 -o masks.json"""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = command("decide", run, SUMMARY, MORE)
    parser.add_argument("scan", type=Path, help="the first scan: MRD, or a Siemens twix file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="masks.json")
    parser.add_argument("--acceleration", type=float, help="nominal (default: the header's, or 4)")
    parser.add_argument("--echo-train", type=int, help="lines of a shot (default: the header's)")
    parser.add_argument("--config", default="adaptive_modl.xml", help="pipeline, by its name")
    parser.add_argument("--pipelines", type=Path, help="folder whose XML files may be named, too")


def run(options: argparse.Namespace) -> int:
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
