"""A slice while other processes keep every core busy, in its time on a quiet machine.

15 coils, 640 x 368, R = 4, MoDL, from the first line sent to the image: `mnet serve` beside one
endless loop a core, once in a session of the host's own (as from one script), once each in one of
its own (as from other terminals); Linux shares cores between sessions first.
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
from gadgets.scanner.demo_scan import demo_volume, write_demo
from tests.benchmarks.bench import Check, Figure
from tests.benchmarks.hosts import ours, timed_scan

REPEATS = 5
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


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder, ours() as host:
        path = Path(folder) / "demo.h5"
        write_demo(path, demo_volume(n_slices=1))
        source = open_source(path)
        timed_scan(host, source, CONFIG)
        quiet = [timed_scan(host, source, CONFIG) for _ in range(REPEATS)]
        for where, apart in (("the host's session", False), ("sessions of their own", True)):
            with busy(apart=apart):
                beside = [timed_scan(host, source, CONFIG) for _ in range(REPEATS)]
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
