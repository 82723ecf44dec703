"""What a process has freed serves it again, instead of pages that the kernel has to clear."""

import ctypes
import subprocess
import sys

import pytest

ROUNDS = 20
PROBE = f"""
import resource, threading
import numpy as np
from gadgets.worker.memory import keep_memory
if {{keep}}:
    keep_memory()
def work():
    for _ in range(3):  # more at once than one array, as a reconstruction has
        arrays = [np.ones(1_800_000, np.complex64) for _ in range(6)]  # 14 MB, a slice of 15 coils
        del arrays
first = threading.Thread(target=work)
first.start()
first.join()
begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
"""


def faults(keep: bool) -> int:
    """Count the pages that the kernel brought in while arrays came and went."""
    script = [sys.executable, "-c", PROBE.format(keep=keep)]
    return int(subprocess.run(script, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_arrays_that_come_and_go_cost_no_new_pages() -> None:
    kept, given_back = faults(keep=True), faults(keep=False)
    assert kept < 3500  # pages of one array, of 360 made
    assert given_back > 10 * kept  # with huge pages, a fault for 512
