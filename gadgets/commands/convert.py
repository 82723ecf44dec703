"""`mnet convert`: what scanners and others write, as MRD."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import ConfigError
from .options import add_reading, reading


def add(adder: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    convert = adder(
        "convert",
        run,
        "Convert an MRD stream, MRD 2, fastMRI HDF5, Siemens twix or a scan record to MRD HDF5.",
        "The kind is told by content. What a header says of a patient, a place or a day is left\n"
        "out, and only you can read what is written.\n"
        "A target in .mrd2 becomes an MRD 2 stream (pip install mnet-gadgets[mrd2]).\n"
        "Twix needs pip install mnet-gadgets[twix].\n\n"
        "example: mnet convert meas_MID00358_gre.dat gre.h5",
    )
    convert.add_argument("source", type=Path, help="file, or the folder of a scan record")
    convert.add_argument("target", type=Path, help="MRD HDF5 to write")
    convert.add_argument("--ky-center", metavar="COUNTER", help="short for --header ky_center=")
    convert.add_argument("--overwrite", action="store_true", help="replace an existing target")
    convert.add_argument(
        "--seq",
        type=Path,
        metavar="FILE.seq",
        help="header and counters from the Pulseq file that the scan was measured with",
    )
    convert.add_argument(
        "--with-identity",
        action="store_true",
        help="keep what the header says of a patient; fastMRI's and twix's never do",
    )
    add_reading(convert)


def run(options: argparse.Namespace) -> int:
    """Convert, and say what became of what."""
    from ..files.convert import convert

    described = None
    if options.seq is not None:
        from ..pulseq.described import with_sequence

        if options.header or options.ky_center is not None:
            raise ConfigError("--seq gives the whole header: leave --header and --ky-center out")
        described = partial(with_sequence, path=options.seq)
    said = convert(
        options.source,
        options.target,
        **reading(options),
        overwrite=options.overwrite,
        described=described,
        with_identity=options.with_identity,
    )
    print(said)
    return 0
