"""The options that several commands share."""

import argparse
from pathlib import Path
from typing import Any


def add_host(parser: argparse.ArgumentParser) -> None:
    """Add the options of a host, which `mnet doctor` takes too."""
    parser.add_argument("--address", default="127.0.0.1", help="where MRD clients may connect")
    parser.add_argument(
        "--address-is-guarded",
        action="store_true",
        help="a firewall or a tunnel decides who reaches --address; needed where that is not "
        "loopback, for MRD knows no keys",
    )
    parser.add_argument("--port", type=int, default=9002, help="0 takes a free one")
    parser.add_argument("--mask-endpoint", default="tcp://127.0.0.1:9004")
    parser.add_argument("--mask-keys", type=Path, help="KEYS/host of `mnet keys`: use CURVE")
    parser.add_argument(
        "--external",
        type=int,
        metavar="PORT",
        help="also take C++ Gadgetrons whose external node says <connect port=PORT>; 0: a free one",
    )
    parser.add_argument("--records", type=Path, help="folder of scan records; none without")
    parser.add_argument(
        "--noise",
        type=Path,
        help="folder of noise measurements (default ~/.local/state/mnet/noise)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:N (default auto)")
    parser.add_argument(
        "--status-port", type=int, help="/healthz, /readyz and /metrics over HTTP on 127.0.0.1"
    )
    parser.add_argument(
        "--monitor-port",
        type=int,
        help="a page on 127.0.0.1 that shows scans while they run: lines, masks and why, images, "
        "errors; also what --status-port has. Needs pip install 'mnet-gadgets[monitor]'",
    )


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the folders of one's own pipelines and gadgets."""
    parser.add_argument(
        "--pipelines", type=Path, help="folder whose XML files clients may name too, before ours"
    )
    parser.add_argument(
        "--gadgets",
        type=Path,
        help="folder whose *.py define gadgets that pipelines may name beside ours; the host runs "
        "them, so nobody else may be able to write there",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how a data argument is to be read."""
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
