"""From a slice's last calibration line to its mask, while other slices are being reconstructed.

15 coils, 640 x 368, R = 4, closed loop on loopback, host and scanner in two processes. Slices
follow each other without a pause and a reconstruction takes longer than a slice, so that the worker
is busy from the second slice on; the first one of every scan is left out. Two clocks: the host's,
from the line in the front of the pipeline to the mask handed to the channel, and the scanner's,
from the line sent to the mask accepted, both wires included.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

from gadgets.files.source import Source, open_source
from gadgets.host.child_host import Address
from gadgets.scanner.adaptive_scan import acquirable_rows, plan_lines
from gadgets.scanner.demo_scan import demo_volume, write_demo
from gadgets.scanner.sequence import SequenceParameters, play
from mnet.sampler.mnet_select import MNetSelect
from mnet.weight_files import load_weights
from tests.benchmarks.bench import Check, Figure
from tests.benchmarks.hosts import Running, ours, worker_seconds

RUNS, SCANS, N_SLICES, TR_MS = 2, 3, 10, 5.0
TARGETS_MS = {"median": 5.0, "p99": 10.0}


def scan(
    host: Running, source: Source, sequence: SequenceParameters
) -> tuple[list[float], list[float], int]:
    """Play one scan: ms on the host's and on the scanner's clock, and slices without a mask."""
    address = Address(host="127.0.0.1", port=host.port, mask_endpoint=host.mask_endpoint)
    played, images = play(source, sequence, address, "adaptive_modl.xml")
    on_host = {
        int(image.header["slice"]): float(image.meta["mnet_mask_ms"])
        for image in images
        if "mnet_mask_ms" in image.meta
    }
    fallbacks = sum(one.fallback for one in played)
    by_scanner = [one.latency_ms for one in played[1:] if one.latency_ms is not None]
    return [on_host[one.key[0]] for one in played[1:]], by_scanner, fallbacks


def measure() -> Iterator[Figure]:
    sampler = load_weights("mnet_select")[0]
    if not isinstance(sampler, MNetSelect):
        raise TypeError("weights 'mnet_select' are not an MNetSelect")
    runs: list[dict[str, list[float]]] = []
    fallbacks = 0
    with tempfile.TemporaryDirectory() as folder, ours() as host:
        path = Path(folder) / "demo.h5"
        write_demo(path, demo_volume(n_slices=N_SLICES))
        source = open_source(path)
        plan = plan_lines(acquirable_rows(source), 4.0)
        sequence = SequenceParameters(plan=plan, fallback=sampler.population(plan), tr_ms=TR_MS)
        began, busy = time.perf_counter(), worker_seconds(host.pid)
        for _ in range(RUNS):
            run: dict[str, list[float]] = {"host": [], "scanner": []}
            for _ in range(SCANS):
                on_host, by_scanner, missed = scan(host, source, sequence)
                run["host"] += on_host
                run["scanner"] += by_scanner
                fallbacks += missed
            runs.append(run)
        busy = (worker_seconds(host.pid) - busy) / (time.perf_counter() - began)
    note = (
        f"the worst of {RUNS} runs of {len(runs[0]['host'])} masks, {TR_MS:g} ms between lines; "
        f"the worker kept {busy:.1f} of {os.cpu_count()} cores busy"
    )
    summaries: dict[str, Callable[[list[float]], float]] = {
        "median": median,
        "p99": lambda values: float(np.percentile(values, 99)),
    }
    for clock, end in (("host", "to the mask in the channel"), ("scanner", "to the mask there")):
        for name, summary in summaries.items():
            yield Figure(
                figure=f"last calibration line {end}, {clock}'s clock, {name}",
                ours=max(summary(run[clock]) for run in runs),
                unit="ms",
                at_most=TARGETS_MS[name],
                check=Check(what="slices without their mask", value=fallbacks, at_most=0),
                note=note,
            )
