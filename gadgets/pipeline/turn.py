"""Whose lines are handled now, and which may wait: the scans of a host share one Python.

Python runs one thread at a time, and numpy and torch give its lock away in every operation.
Sessions that handle lines at the same time mostly wake each other: four of them cost twice what
they cost in turn, and a mask that is decided between them waits at each of its operations.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


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
    """Held by one thread at a time: urgent ones first, the others as they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = {urgent: threading.Condition(self._lock) for urgent in (True, False)}
        self._n_urgent = 0  # that wait
        self._holder: int | None = None

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
            self._free[urgent].wait_for(
                lambda: self._holder is None and (urgent or not self._n_urgent)
            )
            self._n_urgent -= urgent
            self._holder = threading.get_ident()

    def _give(self) -> None:
        with self._lock:
            self._holder = None
            self._free[self._n_urgent > 0].notify()
