"""`mnet scan` and `mnet demo`: the closed loop, of a file or of sample anatomy."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import IncompleteError
from .chosen_host import OUTPUT, chosen_host
from .options import add_folders, add_reading, reading


def add(adder: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    scan = adder(
        "scan",
        _scan,
        "Play a fully sampled file as an adaptive sequence would acquire it.",
        "Streams the calibration lines of each slice, takes the mask or, at the deadline, the\n"
        "fallback, streams only those lines, and scores the images that come back.\n"
        "Without --host it starts a host of its own and stops it in the end.\n\n"
        "example: mnet scan brain.h5 --acceleration 4 --report report.html",
    )
    scan.add_argument(
        "data", type=Path, help="MRD (HDF5, or a stream), fastMRI HDF5 or Siemens twix"
    )
    _loop_options(scan)
    add_folders(scan)
    add_reading(scan)

    demo = adder(
        "demo",
        _demo,
        "Run host and scanner on sample anatomy and write a report.",
        "The anatomy comes with the package nilearn: pip install mnet-gadgets[demo].",
    )
    demo.add_argument("--slices", type=int, default=4)
    demo.add_argument(
        "--keep",
        type=Path,
        metavar="FILE",
        help="keep the scan with its tissue maps, for mnet scan",
    )
    _loop_options(demo)
    add_folders(demo)


def _loop_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="HOST:PORT of a running host (then also --mask-endpoint)")
    parser.add_argument("--mask-endpoint", help="of the running host")
    parser.add_argument("--mask-keys", type=Path, help="our folder of keys, where it uses CURVE")
    parser.add_argument("--config", default="adaptive_modl.xml", help="pipeline of the host")
    parser.add_argument("--acceleration", type=float, default=4.0, help="nominal (default 4)")
    parser.add_argument("--deadline-ms", type=float, default=1000.0, help="after the calibration")
    parser.add_argument(
        "--tr-ms",
        type=float,
        default=5.0,
        help="between lines (default 5); 0 sends without pause, and latencies are then backlog",
    )
    parser.add_argument("--echo-train", type=int, default=1, help="lines per shot (default 1)")
    parser.add_argument(
        "--order",
        choices=["linear", "centre-out", "shuffled", "continuous", "bands"],
        help="which line at which echo (default continuous, with a train of 1 linear)",
    )
    parser.add_argument(
        "--effective-echo",
        type=int,
        metavar="ECHO",
        help="at which k = 0 is measured, from 1 (default with continuous and bands: the middle)",
    )
    parser.add_argument(
        "--dummies", type=int, default=0, help="shots before the first line of a slice (default 0)"
    )
    parser.add_argument(
        "--interleave",
        action="store_true",
        help="one shot of every slice in turn; a mask is looked for at the slice's next shot, "
        "nothing waits, and --deadline-ms does not count",
    )
    _physics_options(parser)
    parser.add_argument("--report", type=Path, default=Path("report.html"))
    parser.add_argument("--no-report", action="store_true", help="skip report and comparison")
    parser.add_argument("--seeds", type=int, default=5, help="draws of the random samplers")
    parser.add_argument("--json", type=Path, help="write slices, summary and comparison here")
    parser.add_argument("--output", type=Path, help=OUTPUT)
    parser.add_argument("--records", type=Path, help="keep the private host's records here")
    parser.add_argument("--device", default="auto", help="of the private host")


def _physics_options(parser: argparse.ArgumentParser) -> None:
    physics = parser.add_argument_group(
        "physics", "Lines computed from tissue maps, which the demo has, echo by echo."
    )
    physics.add_argument(
        "--physics",
        choices=["tse", "gre"],
        help="turbo spin echo, or RF-spoiled gradient echo; without it lines are as recorded",
    )
    physics.add_argument(
        "--physics-tr-ms",
        type=float,
        metavar="MS",
        help="TR of a slice (default 3000, gre 10); --tr-ms is the pace on the wire",
    )
    physics.add_argument("--echo-spacing-ms", type=float, default=9.6, help="tse (default 9.6)")
    physics.add_argument("--refocusing-deg", type=float, default=180.0, help="tse (default 180)")
    physics.add_argument("--flip-deg", type=float, default=15.0, help="gre (default 15)")
    physics.add_argument(
        "--silent-wait",
        action="store_true",
        help="do not pulse while a mask is waited for, which spoils the steady state",
    )
    physics.add_argument(
        "--gain-correction",
        action="store_true",
        help="tse: divide every echo by its strength at k = 0; helps a bad order, harms a good one",
    )


def _scan(options: argparse.Namespace) -> int:
    from ..files.source import open_source
    from ..files.tissue_maps import read_tissues
    from ..scanner.adaptive_scan import acquirable_rows, plan_lines

    source = open_source(options.data, **reading(options))
    try:
        acquirable = acquirable_rows(source)
        plan_lines(acquirable, options.acceleration, options.echo_train)
    except IncompleteError as error:  # before a host is started
        raise IncompleteError(
            f"{options.data} cannot be played as an adaptive scan: {error}. `mnet replay "
            f"{options.data}` reconstructs what was measured, if 4 lines lie around the centre"
        ) from error
    maps = read_tissues(options.data) if options.physics else None
    return _closed_loop(options, source, maps, options.data.name, acquirable)


def _demo(options: argparse.Namespace) -> int:
    from ..files.source import open_source
    from ..scanner.demo_scan import demo_volume, write_demo

    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "demo.h5"
        print("drawing the sample anatomy", file=sys.stderr)
        volume = demo_volume(n_slices=options.slices)
        write_demo(path, volume)
        source = open_source(path)
    return _closed_loop(
        options, source, volume.maps, "sample anatomy (MNI152 template, simulated coils)"
    )


def _closed_loop(
    options: argparse.Namespace, source: Any, maps: Any, title: str, acquirable: Any = None
) -> int:
    from tqdm import tqdm

    from ..export.output import keep, planned
    from ..scanner.adaptive_scan import Options, adaptive_scan
    from ..scanner.scan_result import in_a_sentence
    from ..scanner.sequence import Played

    chosen = Options(
        config=options.config,
        acceleration=options.acceleration,
        deadline_ms=options.deadline_ms,
        tr_ms=options.tr_ms,
        order=options.order,
        echo_train=options.echo_train,
        effective_echo=options.effective_echo,
        dummies=options.dummies,
        interleave=options.interleave,
        physics=_physics(options),
    )
    output = planned(options.output)
    with (
        chosen_host(options) as (address, records),
        tqdm(desc="slices", disable=options.quiet, unit="slice") as bar,
    ):

        def on_slice(played: Played) -> None:
            bar.update()
            bar.set_postfix_str(played.answer)

        result = adaptive_scan(source, address, chosen, records, on_slice, maps, acquirable)
    if output is not None:
        print(keep(output, result.wire, source.header))
    document = dict(result.json)
    if not options.no_report:
        from ..scanner.comparison_report import write_comparison_report

        with tqdm(desc="comparison", disable=options.quiet) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            document |= write_comparison_report(
                options.report,
                result,
                title,
                n_seeds=options.seeds,
                physics=_priced(options, result, source),
                progress=progress,
            )
        print(f"report: {options.report.resolve()}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    summary = result.json["summary"]
    print(in_a_sentence(summary))
    return 0 if summary["images"] == summary["n_slices"] else 1


def _physics(options: argparse.Namespace) -> Any:
    from ..scanner.simulated_lines import Physics

    if options.physics is None:
        return None
    return Physics(
        kind=options.physics,
        tr_ms=options.physics_tr_ms,
        echo_spacing_ms=options.echo_spacing_ms,
        refocusing_deg=options.refocusing_deg,
        flip_deg=options.flip_deg,
        silent_wait=options.silent_wait,
        gain_correction=options.gain_correction,
    )


def _priced(options: argparse.Namespace, result: Any, source: Any) -> Any:
    """Return what order and steady state cost, where lines were computed."""
    from tqdm import tqdm

    from ..scanner.physics_findings import physics_findings
    from ..scanner.physics_prices import prices

    if result.lines is None:
        return None
    with tqdm(desc="physics", disable=options.quiet) as bar:

        def progress(name: str) -> None:
            bar.update()
            bar.set_postfix_str(name)

        return physics_findings(result, prices(result, source.geometry, progress))
