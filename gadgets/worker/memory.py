"""Memory that was freed serves again, as glibc's own settings do not have it for large arrays.

Left to itself it gives them back to the kernel, which clears every page of the next one: a fifth
of a reconstruction where that is slow (4 us a page in a virtual machine), and more of what a line
costs in the front.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # as malloc.h has them
LARGEST = 32 << 20  # bytes of an array that is kept: no more can be asked for
KEPT = 512 << 20  # bytes that may lie free before any are given back


def keep_memory() -> None:
    """Set this process so, before its threads begin; without glibc nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_ARENA_MAX, 1)  # each of several keeps memory of its own, and 64 MB of it at most
    mallopt(_MMAP_THRESHOLD, LARGEST)
    mallopt(_TRIM_THRESHOLD, KEPT)
