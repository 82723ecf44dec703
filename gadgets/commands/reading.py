"""The options that say how a data argument is to be read, the same for every command."""

import argparse
from typing import Any


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command that has a data argument."""
    parser.add_argument(
        "--first-axis",
        choices=["slice", "repetition"],
        default="slice",
        help="what the first axis of a fastMRI array counts",
    )
    parser.add_argument("--group", help="which scan of an MRD HDF5 file, where it holds several")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace what a header has wrong: ky_min, ky_max, ky_center, averages, encoded, "
        "recon, encoded_fov, recon_fov, coils, trajectory or repeats",
    )


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `open_source` is told of a data argument; ConfigError for a wrong --header."""
    from ..mrd.header_values import read_values

    given = list(options.header)
    if getattr(options, "ky_center", None) is not None:
        given.append(f"ky_center={options.ky_center}")
    return {
        "first_axis": options.first_axis,
        "group": options.group,
        "header": read_values(given),
    }
