"""Whose lines are handled now, and which may wait: the scans of a host share one Python.

Python runs one thread at a time, and numpy and torch give its lock away in every operation.
Sessions that handle lines at the same time mostly wake each other: four of them cost twice what
they cost in turn, and a mask that is decided between them waits at each of its operations.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LONGEST_S = 0.1  # the first line of a scan takes a quarter of it, a burst of lines a tenth


@dataclass(slots=True)
class Slack:
    """What a gadget that decides masks says of the lines to come, and is told of those that came.

    A line that is handled alone, with caches that others have filled meanwhile, costs three times
    what it costs among its like.
    """

    lines: int = 0  # that may gather before any of them is handled
    to_mask: float = math.inf  # a mask is due after so many more at the earliest
    read_at: float = 0.0  # when what is handled now was read, time.monotonic


class Turn:
    """Held by one thread at a time: urgent ones first, the others as they came.

    A thread that holds it for longer than LONGEST_S loses it: nobody's masks wait for a scan, or a
    site's own gadget, that hangs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = {urgent: threading.Condition(self._lock) for urgent in (True, False)}
        self._n_urgent = 0  # that wait
        self._holder: int | None = None
        self._since = 0.0

    @contextmanager
    def held(self, *, urgent: bool = False) -> Iterator[None]:
        """Hold the turn meanwhile."""
        self._take(urgent)
        try:
            yield
        finally:
            self._give()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let others have the turn meanwhile, where this thread holds it: for what may wait."""
        if self._holder != threading.get_ident():
            yield
            return
        self._give()
        try:
            yield
        finally:
            self._take(urgent=False)

    def _take(self, urgent: bool) -> None:
        with self._lock:
            self._n_urgent += urgent
            while not (self._is_free() and (urgent or not self._n_urgent)):
                left = self._since + LONGEST_S - time.monotonic()
                self._free[urgent].wait(max(left, LONGEST_S / 100))
            self._n_urgent -= urgent
            self._holder, self._since = threading.get_ident(), time.monotonic()

    def _is_free(self) -> bool:
        return self._holder is None or time.monotonic() - self._since > LONGEST_S

    def _give(self) -> None:
        with self._lock:
            if self._holder == threading.get_ident():
                self._holder = None
                self._free[self._n_urgent > 0].notify()
