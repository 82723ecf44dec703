"""The command line, `mnet`. `mnet COMMAND --help` teaches each command."""

import argparse
import importlib.metadata
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from . import logs
from .commands import (
    before,
    decide,
    export,
    install_gadgetron,
    merge,
    reading,
    recover,
    sequence,
    show,
    values,
)
from .errors import ConfigError, GadgetsError, IncompleteError
from .limits.options import SIZES, add_limits, limits_of
from .limits.settings import UNRECORDED

log = logging.getLogger(__name__)
INTERRUPTED = 130  # 128 and SIGINT, as shells have it
OUTPUT = "keep the images: a name in .h5, .nii.gz or .png, or a folder for DICOM"
RAW = argparse.RawDescriptionHelpFormatter


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status, not zero on any failure, 130 after Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    level = logging.WARNING if options.quiet else logging.INFO
    logs.configure(level, as_json=getattr(options, "log_json", False))
    try:
        before.check(options)
        status: int = options.run(options)
    except KeyboardInterrupt:
        print(f"mnet {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (GadgetsError, OSError) as error:
        print(f"mnet {options.command}: {error}", file=sys.stderr)
        return 1
    return status


class _Version(argparse.Action):
    """Looks up the version when it is asked for: a checkout need not be installed."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it and end."""
        print(f"mnet {importlib.metadata.version('mnet-gadgets')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = values.Parser(
        prog="mnet", description="MRI scans that adapt to the patient while they run."
    )
    parser.add_argument("--version", action=_Version, help="say which version this is, and exit")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        name: str, run: Any, summary: str, more: str = "", *, logs: bool = True
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=summary, description=f"{summary}\n\n{more}", formatter_class=RAW
        )
        command.set_defaults(run=run)
        if logs:
            command.add_argument("--quiet", action="store_true", help="warnings and errors only")
        return command

    serve = add(
        "serve",
        _serve,
        "Run the embedded host.",
        "Takes MRD streams as Gadgetron does, runs the pipelines of xml_configs, and binds the\n"
        "mask channel. Stop it with Ctrl-C (status 130) or SIGTERM (0): it takes no more scans,\n"
        "and running ones have --stop-s seconds to end before they are told and ended.",
    )
    serve.add_argument("--allow-inline-config", action="store_true")
    serve.add_argument(
        "--stop-s", type=float, default=30.0, help="for running scans at a stop (default 30)"
    )
    serve.add_argument(
        "--while-stdin", action="store_true", help="stop too when stdin ends, as with a parent"
    )
    serve.add_argument(
        "--unrecorded",
        choices=UNRECORDED,
        default="go-on",
        help="a scan that cannot be recorded, as on a full disk: it goes on; it goes on, and "
        "/readyz is 503; or it is refused (default go-on)",
    )
    add_limits(serve)
    serve.add_argument("--announce", action="store_true", help="print ports as JSON when ready")

    maskd = add("maskd", _maskd, "Run the mask channel alone, beside the C++ Gadgetron.")
    maskd.add_argument("--mask-endpoint", default="tcp://127.0.0.1:9004")
    maskd.add_argument("--mask-keys", type=Path, help="KEYS/host of `mnet keys`: use CURVE")

    scan = add(
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

    demo = add(
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

    replay = add(
        "replay",
        _replay,
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

    stream = add(
        "stream",
        _stream,
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

    convert = add(
        "convert",
        _convert,
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
    install_gadgetron.add(add)
    _vendor_kit(add)
    for module in (sequence, decide, merge, recover, export, show):
        module.add(add)
    check = add(
        "doctor",
        _doctor,
        "Find what is wrong with an installation, and say what to do.",
        "Give it the options of `mnet serve`, and run it as the user that will run the host.\n"
        "Exit status 1 if a host with these options could not do its work.\n\n"
        "example: mnet doctor --records records --device cuda",
        logs=False,
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")
    check.add_argument(
        "--gadgetron",
        action="store_true",
        help="look at a C++ Gadgetron instead that shall use our pipelines; run it where and as "
        "that is started, with a client's --mask-keys",
    )
    check.set_defaults(quiet=True)
    for command in (serve, check):
        _host_options(command)
    for command in (serve, check, scan, demo, replay, stream):
        _folders(command)
    for command in (serve, maskd):
        command.add_argument("--log-json", action="store_true", help="log JSON, one object a line")
    for command in (scan, replay, convert):
        reading.add(command)
    values.check_by_name(commands)
    return parser


def _vendor_kit(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what vendors of sequences and reconstructions use."""
    keys = add(
        "keys",
        _keys,
        "Make CURVE keys, so that the mask channel may leave this machine.",
        "Writes FOLDER/host for `mnet serve --mask-keys` and, per --client, a folder to hand\n"
        "to that scanner, whose public key goes on the host's allow-list. Run it again to add\n"
        "clients; nothing is ever overwritten.\n\n"
        "example: mnet keys keys --client scanner\n"
        "         mnet serve --mask-endpoint tcp://0.0.0.0:9004 --mask-keys keys/host\n"
        "         mnet scan DATA.h5 --host HOST:9002 --mask-endpoint tcp://HOST:9004 \\\n"
        "              --mask-keys keys/scanner",
    )
    keys.add_argument("folder", type=Path)
    keys.add_argument("--client", action="append", default=[], metavar="NAME")
    conformance = add(
        "conformance",
        _conformance,
        "Test one end of the mask channel against the contract, rule by rule.",
        "--listen plays reconstruction and MRD host to a sequence, which then runs one scan of 13\n"
        "slices or several shorter ones (with keys, one more first, which meets a wrong host).\n"
        "--against-recon plays the sequence to a running host. The contract is\n"
        "docs/mask-channel.md. Exit status 0 only if every rule was tried and kept. docs/ and\n"
        "vendor/ lie in a checkout, or in share/doc/mnet-gadgets of an installation.\n\n"
        "example: mnet conformance --listen tcp://127.0.0.1:9004 --mrd 9002\n"
        "         python vendor/sequence_client.py\n"
        "         mnet conformance --against-recon tcp://127.0.0.1:9004 --mrd 127.0.0.1:9002",
    )
    side = conformance.add_mutually_exclusive_group(required=True)
    side.add_argument("--listen", metavar="MASK_ENDPOINT", help="test a sequence that connects")
    side.add_argument("--against-recon", metavar="MASK_ENDPOINT", help="test a reconstruction")
    conformance.add_argument(
        "--mrd", default="9002", metavar="[HOST:]PORT", help="MRD: to listen on, or to connect to"
    )
    conformance.add_argument("--mask-keys", type=Path, help="our folder of keys: use CURVE")
    conformance.add_argument("--config", default="adaptive_modl.xml", help="pipeline of the host")
    conformance.add_argument(
        "--grace-ms", type=float, default=250.0, help="allowed for transport and a busy machine"
    )
    conformance.add_argument(
        "--idle-s", type=float, default=120.0, help="give up when nothing came for so long"
    )
    conformance.add_argument("--json", type=Path, help="write the verdicts here, '-' for stdout")


def _host_options(parser: argparse.ArgumentParser) -> None:
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


def _folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pipelines", type=Path, help="folder whose XML files clients may name too, before ours"
    )
    parser.add_argument(
        "--gadgets",
        type=Path,
        help="folder whose *.py define gadgets that pipelines may name beside ours; the host runs "
        "them, so nobody else may be able to write there",
    )


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


def _serve(options: argparse.Namespace) -> int:
    import zmq

    from .files.noise_store import default_folder
    from .host.serve import Host
    from .mask.curve_keys import ServerKeys

    stop = _Stop()
    if options.while_stdin:
        threading.Thread(target=_at_end_of_stdin, args=(stop,), daemon=True).start()
    keys = ServerKeys.load(options.mask_keys) if options.mask_keys else None
    try:
        monitor = _monitor(options)
        host = Host(
            address=options.address,
            port=options.port,
            external_port=options.external,
            mask_endpoint=options.mask_endpoint,
            mask_keys=keys,
            records=options.records,
            noise=options.noise or default_folder(),
            pipelines=options.pipelines,
            gadgets=options.gadgets,
            device=options.device,
            allow_inline=options.allow_inline_config,
            status_port=options.status_port,
            stop_s=options.stop_s,
            limits=limits_of(options),
            unrecorded=options.unrecorded,
            guarded=options.address_is_guarded,
            monitor=monitor,
        )
    except (OSError, ValueError, zmq.ZMQError) as error:
        raise ConfigError(
            f"cannot bind: {error}; `mnet doctor` with these options says what is in the way"
        ) from error
    with host:
        log.info("MRD on %s:%d, masks on %s", options.address, host.port, host.mask_endpoint)
        if monitor is not None:
            log.info("see it work: http://127.0.0.1:%d/", monitor.port)
        if options.announce:
            host.wait_warm()
            ports = {
                "port": host.port,
                "mask_endpoint": host.mask_endpoint,
                "external_port": host.external_port,
                "status_port": host.status_port,
            }
            if monitor is not None:
                ports["monitor_port"] = monitor.port
            print(json.dumps(ports), flush=True)
        stop.wait()
    return 0


class _Stop:
    """What ends a process that serves: SIGTERM, or whoever calls `now`; Ctrl-C raises as ever.

    A pipe, because a handler of Python's runs when the main thread comes to it, which one that
    waits for a lock may never do; the byte in the pipe is written in whichever thread is struck.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)

    def wait(self) -> None:
        """Wait for the end."""
        os.read(self._read, 1)

    def now(self) -> None:
        """End the wait; from any thread."""
        os.write(self._write, b"\0")


def _at_end_of_stdin(stop: _Stop) -> None:
    while os.read(0, 4096):
        pass
    stop.now()


def _monitor(options: argparse.Namespace) -> Any:
    if options.monitor_port is None:
        return None
    from .monitor.monitor import Monitor

    return Monitor(options.monitor_port, options.status_port)


def _doctor(options: argparse.Namespace) -> int:
    from .doctor.checks import run

    return run(options, print)


def _keys(options: argparse.Namespace) -> int:
    from .mask.curve_keys import HOST, make_keys

    made = make_keys(options.folder, options.client)
    for folder in made:
        what = "stays on the host" if folder.name == HOST else "goes to this client"
        print(f"{folder}: {what}")
    if not made:
        print(f"{options.folder / HOST} is there already; name a --client to add one")
    return 0


def _conformance(options: argparse.Namespace) -> int:
    from .conformance.commands import run

    return run(options)


def _maskd(options: argparse.Namespace) -> int:
    import zmq

    from .mask.binder import MaskService
    from .mask.curve_keys import ServerKeys

    stop = _Stop()
    keys = ServerKeys.load(options.mask_keys) if options.mask_keys else None
    try:
        service = MaskService(options.mask_endpoint, keys=keys)
    except (ValueError, zmq.ZMQError) as error:
        raise ConfigError(f"cannot bind: {error}") from error
    with service:
        log.info("mask channel adaptive-mask/1 at %s", service.endpoint)
        stop.wait()
    return 0


def _scan(options: argparse.Namespace) -> int:
    from .files.source import open_source
    from .files.tissue_maps import read_tissues
    from .scanner.adaptive_scan import acquirable_rows, plan_lines

    source = open_source(options.data, **reading.reading(options))
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
    from .files.source import open_source
    from .scanner.demo_scan import demo_volume, write_demo

    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "demo.h5"
        print("drawing the sample anatomy", file=sys.stderr)
        volume = demo_volume(n_slices=options.slices)
        write_demo(path, volume)
        source = open_source(path)
    return _closed_loop(
        options, source, volume.maps, "sample anatomy (MNI152 template, simulated coils)"
    )


def _physics(options: argparse.Namespace) -> Any:
    from .scanner.simulated_lines import Physics

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


def _closed_loop(
    options: argparse.Namespace, source: Any, maps: Any, title: str, acquirable: Any = None
) -> int:
    from tqdm import tqdm

    from .export.output import keep, planned
    from .scanner.adaptive_scan import Options, adaptive_scan
    from .scanner.scan_result import in_a_sentence
    from .scanner.sequence import Played

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
        _host(options) as (address, records),
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
        from .scanner.comparison_report import write_comparison_report

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


def _priced(options: argparse.Namespace, result: Any, source: Any) -> Any:
    """Return what order and steady state cost, where lines were computed."""
    from tqdm import tqdm

    from .scanner.physics_findings import physics_findings
    from .scanner.physics_prices import prices

    if result.lines is None:
        return None
    with tqdm(desc="physics", disable=options.quiet) as bar:

        def progress(name: str) -> None:
            bar.update()
            bar.set_postfix_str(name)

        return physics_findings(result, prices(result, source.geometry, progress))


@contextmanager
def _host(options: argparse.Namespace) -> Iterator[tuple[Any, Path | None]]:
    """Give the address of the host to use, and its records where they can be read."""
    from .host.child_host import Address, private_host
    from .mask.curve_keys import ClientKeys

    if options.host:
        name, _, port = options.host.rpartition(":")
        yield (
            Address(
                host=name.strip("[]"),
                port=int(port),
                mask_endpoint=options.mask_endpoint or "",
                mask_keys=ClientKeys.load(options.mask_keys) if options.mask_keys else None,
            ),
            options.records,
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        records = options.records or Path(folder)
        print("starting a host", file=sys.stderr)
        with private_host(
            records,
            device=options.device,
            pipelines=options.pipelines,
            gadgets=options.gadgets,
        ) as address:
            yield address, records


def _replay(options: argparse.Namespace) -> int:
    from .export.output import keep, planned
    from .files.source import open_source
    from .scanner.replay import replay

    output = planned(options.output)
    source = open_source(options.data, **reading.reading(options))
    with _host(options) as (address, _):
        result = replay(options.data, address, options.config, source=source)
    kept = keep(output, result.images, result.header)
    print(f"{len(result.images)} images of {result.n_acquisitions} acquisitions, {kept}")
    if result.n_masks:
        print(f"{result.n_equal} of {result.n_masks} masks equal those of the record")
    if result.images and not result.n_shown:
        print("mnet replay: only masks came back, and no image", file=sys.stderr)
    return 0 if result.n_shown and result.n_equal == result.n_masks else 1


def _stream(options: argparse.Namespace) -> int:
    from .host.stream import run_files
    from .pipeline.build import load
    from .pipeline.catalogue import OURS
    from .pipeline.own_gadgets import own_gadgets

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


def _convert(options: argparse.Namespace) -> int:
    from .files.convert import convert

    described = None
    if options.seq is not None:
        from .pulseq.described import with_sequence

        if options.header or options.ky_center is not None:
            raise ConfigError("--seq gives the whole header: leave --header and --ky-center out")
        described = partial(with_sequence, path=options.seq)
    said = convert(
        options.source,
        options.target,
        **reading.reading(options),
        overwrite=options.overwrite,
        described=described,
        with_identity=options.with_identity,
    )
    print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
