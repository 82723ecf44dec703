"""What the page of `mnet serve --monitor-port` costs a mask: with somebody looking on, and without.

As `bench_mask_path`, on the host's clock, two hosts by turns. The one with a page is watched by a
reader of its events and images, as a browser would be. It must cost nothing: the medians differ by
no more than two of the same host do from run to run, for which 0.3 ms are allowed.
"""

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from gadgets.files.source import open_source
from gadgets.scanner.adaptive_scan import acquirable_rows, plan_lines
from gadgets.scanner.demo_scan import demo_volume, write_demo
from gadgets.scanner.sequence import SequenceParameters
from mnet.sampler.mnet_select import MNetSelect
from mnet.weight_files import load_weights
from tests.benchmarks.bench import Check, Figure
from tests.benchmarks.bench_mask_path import N_SLICES, TR_MS, scan
from tests.benchmarks.hosts import ours

SCANS, ALLOWED_MS = 2, 0.3


def watch(port: int) -> None:
    """Read every event and the image that it speaks of, until the host ends."""
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/events") as events:
        for line in events:
            if not line.startswith(b"data: "):
                continue
            for shown in json.loads(line.removeprefix(b"data: "))["scans"]:
                for row in (row for row in shown["rows"] if "image" in row):
                    path = f"image/{shown['scan']}/{row['slice']}?n={row['image']['n']}"
                    urlopen(f"http://127.0.0.1:{port}/{path}").read()


def measure() -> Iterator[Figure]:
    sampler = load_weights("mnet_select")[0]
    assert isinstance(sampler, MNetSelect)
    latencies: dict[str, list[float]] = {"plain": [], "watched": []}
    with tempfile.TemporaryDirectory() as folder, ours() as plain, ours("--monitor-port", "0") as w:
        path = Path(folder) / "demo.h5"
        write_demo(path, demo_volume(n_slices=N_SLICES))
        source = open_source(path)
        plan = plan_lines(acquirable_rows(source), 4.0)
        sequence = SequenceParameters(plan=plan, fallback=sampler.population(plan), tr_ms=TR_MS)
        assert w.monitor_port is not None
        threading.Thread(target=watch, args=(w.monitor_port,), daemon=True).start()
        for _ in range(SCANS):
            for name, host in (("plain", plain), ("watched", w)):
                latencies[name] += scan(host, source, sequence)[0]
    with_page, without = median(latencies["watched"]), median(latencies["plain"])
    yield Figure(
        figure="last calibration line to the mask in the channel, a page open and watched, median",
        ours=with_page,
        peer=without,
        unit="ms",
        peer_name="the same host without --monitor-port",
        check=Check(what="ms later than without", value=with_page - without, at_most=ALLOWED_MS),
        at_most=without + ALLOWED_MS,
        note=f"{len(latencies['watched'])} masks each",
    )
