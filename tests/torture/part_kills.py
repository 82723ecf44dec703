"""Kills: a host killed at any moment has recorded what it said, leaves nobody, and starts again."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from gadgets.errors import GadgetsError
from gadgets.mrd.items import Acquisition, Image
from gadgets.mrd.messages import write_message
from gadgets.records.reader import is_record, read_record, read_summary
from gadgets.scanner.client import MrdClient
from tests.gadgets.helpers.closed_loop import source
from tests.gadgets.helpers.processes import children, is_running, serving
from tests.gadgets.helpers.synthetic import changed
from tests.torture.effort import Effort, Outcome
from tests.torture.hosts import eventually

PIPELINE = "zero_filled.xml"
BETWEEN_LINES_S = 0.002
LONGEST_S = 0.5  # from the start of a scan to the kill; the scan takes about as long


def run(effort: Effort) -> Iterator[Outcome]:
    """Kill a hundred hosts, or two."""
    yield kills(effort, effort.times(100, 2))


def kills(effort: Effort, n: int) -> Outcome:
    """Kill `n` hosts at moments that are drawn, all with the same folder of records."""
    outcome, moments = Outcome(what="hosts killed"), effort.random("kills")
    with TemporaryDirectory() as folder:
        right: list[np.ndarray] = []
        n_lines = 0
        for _ in range(n):
            n_lines += killed(moments.uniform(0.0, LONGEST_S), Path(folder), right, outcome)
            outcome.n += 1
    outcome.figures["lines_compared"] = n_lines
    return outcome


def killed(after_s: float, records: Path, right: list[np.ndarray], outcome: Outcome) -> int:
    """Kill a host in its second scan; returns how many recorded lines were compared.

    `right` are the images of the first scan of all, or empty.
    """
    data = source(2)
    lines = [changed(line, scan_counter=n) for n, line in enumerate(data.acquisitions)]
    with serving("--quiet", "--records", str(records)) as (process, ports):
        port = ports["port"]
        (worker,) = children(process.pid)
        with MrdClient("127.0.0.1", port) as client:  # what an earlier kill left is in nobody's way
            client.start(PIPELINE, data.header)
            client.send_all(data.acquisitions)
            images = pixels(client.finish())
        if not right:
            right += images
        if len(images) != len(right) or not all(map(np.array_equal, images, right)):
            outcome.fault(f"kill after {after_s:.3f} s: the scan before it has other images")
        before = set(records.iterdir())
        timer = threading.Timer(after_s, process.send_signal, (signal.SIGKILL,))
        timer.start()
        with suppress(GadgetsError, OSError), MrdClient("127.0.0.1", port) as client:
            client.start(PIPELINE, data.header)
            for line in lines:
                client.send(line)
                time.sleep(BETWEEN_LINES_S)
            client.finish()
        timer.join()
        process.wait(20)
    if not eventually(lambda: not is_running(worker), patience_s=20.0):
        outcome.fault(f"kill after {after_s:.3f} s: its worker lives on")
    n_compared = 0
    for folder in set(records.iterdir()) - before:
        wrong, n = lost(folder, lines)
        n_compared += n
        if wrong:
            outcome.fault(f"kill after {after_s:.3f} s: {wrong}")
    return n_compared


def lost(folder: Path, lines: list[Acquisition]) -> tuple[str, int]:
    """Say what a record lacks of what it says that it has, and how many lines it holds."""
    if not is_record(folder):  # killed between the folder and the file of messages
        return "", 0
    kept = [write_message(m) for m in read_record(folder) if isinstance(m, Acquisition)]
    if kept != [write_message(line) for line in lines[: len(kept)]]:
        return "its lines are not those that were sent", len(kept)
    summary = read_summary(folder)
    if not summary:  # killed between the folder and its first line
        return (f"{len(kept)} lines and no summary" if kept else ""), len(kept)
    persisted = summary["persisted_scan_counter"]
    if len(kept) <= (-1 if persisted is None else persisted):
        return f"{len(kept)} lines, and line {persisted} is said to be there", len(kept)
    if summary["state"] not in ("running", "ended"):
        return f"its state is {summary['state']}", len(kept)
    return "", len(kept)


def pixels(images: list[Image]) -> list[np.ndarray]:
    """Return the images in the order of their slices."""
    return [one.data for one in sorted(images, key=lambda one: int(one.header["slice"]))]
