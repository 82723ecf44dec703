"""Masks before everything else that the scans of one process have to do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 0.05  # a line waits no longer: where masks are due all the time, scans go on


class MaskFirst:
    """Lets the threads of other scans wait while one of them decides a mask.

    Python runs one thread at a time, and a decision is a row of short operations, after each of
    which the thread of another scan may run for a while. Two decisions at once would both be late:
    one comes after the other.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._count = threading.Lock()
        self._due = 0
        self._none_due = threading.Event()
        self._none_due.set()

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Decide a mask meanwhile; whoever asks `wait` waits."""
        with self._count:
            self._due += 1
            self._none_due.clear()
        try:
            with self._turn:
                yield
        finally:
            with self._count:
                self._due -= 1
                if not self._due:
                    self._none_due.set()

    def wait(self) -> None:
        """Wait while a mask is being decided, but not for ever."""
        self._none_due.wait(PATIENCE_S)
