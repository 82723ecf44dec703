"""Scans side by side: masks in time in each of them, and a short scan beside a long one.

15 coils, 640 x 368, R = 4, closed loop on loopback with a deadline of 50 ms and 5 ms between lines.
Every scanner is a process of its own, so that none of them waits for another's Python; they share
the cores with the host, which makes these figures upper bounds. The short scan is one slice of 4
coils, 64 x 64, the long one 8 large slices, sent as fast as they are taken.

Run it on a machine that does nothing else.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

from gadgets.files.source import open_source
from gadgets.host.child_host import Address
from gadgets.scanner.adaptive_scan import acquirable_rows, plan_lines
from gadgets.scanner.client import MrdClient
from gadgets.scanner.demo_scan import demo_volume, write_demo
from gadgets.scanner.sequence import SequenceParameters, play
from mnet.weight_files import load_weights
from tests.benchmarks.bench import Check, Figure
from tests.benchmarks.hosts import Running, ours, timed_scan
from tests.gadgets.helpers import closed_loop

N_SLICES, N_LONG, REPEATS = 12, 8, 5
DEADLINE_MS, TR_MS = 50.0, 5.0
CONFIG = "adaptive_modl.xml"


def scan(path: str, address: Address, begin: float) -> tuple[list[float], int]:
    """Play a scan that begins at an instant: ms to each mask that came, and how many did not."""
    source = open_source(Path(path))
    plan = plan_lines(acquirable_rows(source), 4.0)
    fallback = load_weights("mnet_select")[0].population(plan)  # type: ignore[operator]
    sequence = SequenceParameters(
        plan=plan, fallback=fallback, tr_ms=TR_MS, deadline_ms=DEADLINE_MS
    )
    time.sleep(max(0.0, begin - time.time()))
    played, _ = play(source, sequence, address, CONFIG)
    return (
        [one.latency_ms for one in played if one.latency_ms is not None],
        sum(one.fallback for one in played),
    )


def together(path: Path, host: Running, n: int) -> tuple[list[float], int]:
    """Play n scans at once, all begun before any of them sends."""
    address = Address(host="127.0.0.1", port=host.port, mask_endpoint=host.mask_endpoint)
    begin = time.time() + 10.0  # the processes import torch meanwhile
    with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(scan, [str(path)] * n, [address] * n, [begin] * n))
    return [ms for found, _ in results for ms in found], sum(missed for _, missed in results)


def short_scan(host: Running) -> float:
    """Time one small slice, from its first line to its image."""
    return timed_scan(host, closed_loop.source(1), CONFIG)[0]


def beside_a_long_one(path: Path, host: Running) -> list[float]:
    """Time short scans while a long one is being reconstructed."""
    source = open_source(path)
    seconds: list[float] = []
    header, lines = source.header, source.acquisitions
    n_lines = len(lines) * N_LONG // N_SLICES
    over = threading.Event()
    with MrdClient("127.0.0.1", host.port) as client:
        client.start(CONFIG, header)

        def send() -> None:
            client.send_all(lines[:n_lines])
            client.finish()
            over.set()

        thread = threading.Thread(target=send)
        thread.start()
        while not client.images:  # the worker is busy from here on
            time.sleep(0.01)
        while not over.is_set() and len(seconds) < REPEATS:
            seconds.append(short_scan(host))
        thread.join()
    return seconds


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder, ours() as host:
        path = Path(folder) / "demo.h5"
        write_demo(path, demo_volume(n_slices=N_SLICES))
        for n, share, p99_ms in ((4, 0.0, 15.0), (8, 0.05, None)):
            masks_ms, missed = together(path, host, n)
            note = f"{n} scans of {N_SLICES} slices at once, deadline {DEADLINE_MS:g} ms"
            yield Figure(
                figure=f"{n} concurrent scans: slices on the fallback",
                ours=missed / (n * N_SLICES),
                unit="",
                at_most=share,
                note=note,
            )
            yield Figure(
                figure=f"{n} concurrent scans: last calibration line to the mask there, p99",
                ours=float(np.percentile(masks_ms, 99)) if masks_ms else float("inf"),
                unit="ms",
                at_most=p99_ms,
                note=note,
            )
        alone = median(short_scan(host) for _ in range(REPEATS))
        beside = beside_a_long_one(path, host)
        yield Figure(
            figure="a scan of one small slice beside a long one, in its time alone",
            ours=max(beside) / alone,
            unit="x",
            at_most=3.0,
            check=Check(what="scans that were not timed", value=REPEATS - len(beside), at_most=0),
            note=f"{alone:.2f} s alone, the longest of {len(beside)} beside {max(beside):.2f} s",
        )
