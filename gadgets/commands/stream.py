"""`mnet stream`: a pipeline between two pipes."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ..limits.options import SIZES, add_limits, limits_of
from .options import add_folders


def add(adder: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    stream = adder(
        "stream",
        run,
        "Reconstruct an MRD stream from stdin to stdout, without a host.",
        "Images leave as they are made; logs go to stderr. It fails if no image was made. An\n"
        "MRD 2 stream is answered with one (pip install mnet-gadgets[mrd2]).\n\n"
        "example: ismrmrd_hdf5_to_stream -i scan.h5 --use-stdout | mnet stream \\\n"
        "           --config cg_sense.xml | ismrmrd_stream_to_hdf5 --use-stdin -o images.h5",
    )
    stream.add_argument("--config", required=True, help="pipeline, by its name")
    stream.add_argument("-i", "--input", type=Path, help="file or named pipe (default: stdin)")
    stream.add_argument("-o", "--output", type=Path, help="file or named pipe (default: stdout)")
    stream.add_argument("--device", default="auto", help="auto, cpu or cuda:N (default auto)")

    add_limits(stream, SIZES)
    add_folders(stream)


def run(options: argparse.Namespace) -> int:
    """Run the pipeline; fails where no image was made."""
    from ..host.stream import run_files
    from ..pipeline.build import load
    from ..pipeline.catalogue import OURS
    from ..pipeline.own_gadgets import own_gadgets

    n_images = run_files(
        options.input,
        options.output,
        load(options.config, extra=options.pipelines),
        device=options.device,
        catalogue=own_gadgets(options.gadgets) if options.gadgets else OURS,
        limits=limits_of(options),
    )
    if not n_images:
        print("mnet stream: no image was made; the log says why", file=sys.stderr)
    return 0 if n_images else 1
