"""A slice while other processes keep every core busy, in its time on a quiet machine.

15 coils, 640 x 368, R = 4, MoDL, from the first line sent to the image: `mnet serve` beside one
endless loop a core, once in a session of the host's own (as from one script), once each in one of
its own (as from other terminals); Linux shares cores between sessions first. And an adaptive scan,
during which the worker makes room for the masks.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from gadgets.files.source import open_source
from gadgets.host.child_host import Address
from gadgets.scanner.demo_scan import demo_volume, write_demo
from tests.benchmarks.bench import Check, Figure
from tests.benchmarks.bench_fair_shares import scan
from tests.benchmarks.hosts import Running, ours, timed_scan

REPEATS, N_SLICES = 5, 4
CONFIG = "adaptive_modl_retrospective.xml"
AT_MOST = 3.0


@contextmanager
def busy(*, apart: bool) -> Iterator[None]:
    """Run an endless loop for every core."""
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            loop = [sys.executable, "-c", "while True: pass"]
            process = stack.enter_context(subprocess.Popen(loop, start_new_session=apart))
            stack.callback(process.kill)
        time.sleep(1)  # they have begun
        yield


def adaptive(path: Path, host: Running) -> tuple[float, int]:
    """Play an adaptive scan: how long it takes to its last image, and masks that came too late."""
    address = Address(host="127.0.0.1", port=host.port, mask_endpoint=host.mask_endpoint)
    began = time.perf_counter()
    late = scan(str(path), address, begin=0.0)[1]
    return time.perf_counter() - began, late


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder, ours() as host:
        path, several = Path(folder) / "demo.h5", Path(folder) / "several.h5"
        write_demo(path, demo_volume(n_slices=1))
        write_demo(several, demo_volume(n_slices=N_SLICES))
        source = open_source(path)
        timed_scan(host, source, CONFIG)
        adaptive(several, host)
        quiet = [timed_scan(host, source, CONFIG) for _ in range(REPEATS)]
        quiet_scan, _ = adaptive(several, host)
        for where, apart in (("the host's session", False), ("sessions of their own", True)):
            with busy(apart=apart):
                beside = [timed_scan(host, source, CONFIG) for _ in range(REPEATS)]
                scan_s, late = adaptive(several, host)
            yield Figure(
                figure=f"a slice beside a busy loop on every core, in {where}",
                ours=median(s for s, _ in beside) / median(s for s, _ in quiet),
                unit="x",
                at_most=AT_MOST,
                check=Check(
                    what="slices without an image",
                    value=sum(n == 0 for _, n in quiet + beside),
                    at_most=0,
                ),
                note=f"{median(s for s, _ in quiet):.2f} s on the quiet machine",
            )
            yield Figure(
                figure=f"an adaptive scan beside such loops, in {where}",
                ours=scan_s / quiet_scan,
                unit="x",
                at_most=AT_MOST,
                check=Check(what="masks too late", value=late, at_most=0),
                note=f"{N_SLICES} slices, {quiet_scan:.1f} s on the quiet machine",
            )
