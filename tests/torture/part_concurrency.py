"""Concurrency: scans side by side give what they give alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gadgets.mrd.items import Image
from tests.gadgets.helpers.peer import session
from tests.gadgets.helpers.synthetic import Scanned, scanned
from tests.torture.effort import Effort, Outcome
from tests.torture.hosts import Running, messages, running


def run(effort: Effort) -> Iterator[Outcome]:
    """Run different scans at the same time."""
    with running() as host:
        yield side_by_side(effort, host)


def side_by_side(effort: Effort, host: Running) -> Outcome:
    """Compare the images of scans that run together with those of each alone."""
    outcome, n = Outcome(what="scans side by side"), effort.times(16, 3)
    scans = [scanned(n_slices=2, n_coils=2 + number % 3, seed=number) for number in range(n)]
    alone = [_images(host, scan) for scan in scans]
    for _ in range(effort.times(50, 1)):
        with ThreadPoolExecutor(n) as pool:
            together = list(pool.map(lambda scan: _images(host, scan), scans))
        for number, (one, other) in enumerate(zip(alone, together, strict=True)):
            outcome.n += 1
            if len(one) != len(other) or not all(map(np.array_equal, one, other)):
                outcome.fault(f"scan {number} of {n} gave other images than alone")
    return outcome


def _images(host: Running, scan: Scanned) -> list[np.ndarray]:
    heard = session(host.address, *messages(scan, "zero_filled.xml"))
    return [message.data for message in heard if isinstance(message, Image)]
