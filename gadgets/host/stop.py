"""How a process that serves is told to end: SIGTERM, Ctrl-C, or the end of its input."""

import os
import signal
from types import TracebackType

from typing_extensions import Self


class Stop:
    """What ends a process that serves: SIGTERM, or whoever calls `now`; Ctrl-C raises as ever.

    A pipe, because a handler of Python's runs when the main thread comes to it, which one that
    waits for a lock may never do; the byte in the pipe is written in whichever thread is struck.
    A context manager of the main thread: outside, SIGTERM does what it did before.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()  # left to the process: `now` may come late
        os.set_blocking(self._write, False)

    def __enter__(self) -> Self:
        self._earlier = (
            signal.set_wakeup_fd(self._write, warn_on_full_buffer=False),
            signal.signal(signal.SIGTERM, lambda number, frame: None),
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        wakeup, handler = self._earlier
        signal.signal(signal.SIGTERM, handler)
        signal.set_wakeup_fd(wakeup)

    def wait(self) -> None:
        """Wait for the end."""
        os.read(self._read, 1)

    def now(self) -> None:
        """End the wait; from any thread."""
        os.write(self._write, b"\0")
