"""How a process that serves is told to end: SIGTERM, Ctrl-C, or the end of its input."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """What ends a process that serves: SIGTERM, or whoever calls `now`; Ctrl-C raises as ever.

    A pipe, because a handler of Python's runs when the main thread comes to it, which one that
    waits for a lock may never do; the byte in the pipe is written in whichever thread is struck.
    """

    def __init__(self) -> None:
        self._read, self.write = os.pipe()  # left to the process: `now` may come late
        os.set_blocking(self.write, False)

    def wait(self) -> None:
        """Wait for the end."""
        os.read(self._read, 1)

    def now(self) -> None:
        """End the wait; from any thread."""
        os.write(self.write, b"\0")


@contextmanager
def stopping() -> Iterator[Stop]:
    """Have SIGTERM stop what is done meanwhile, in the main thread; afterwards it is as before."""
    stop = Stop()
    wakeup = signal.set_wakeup_fd(stop.write, warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.set_wakeup_fd(wakeup)
