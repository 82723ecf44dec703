"""What of one scan waits for the worker, in the front: its session goes on reading lines."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .shared_memory import Arrays, Json

log = logging.getLogger(__name__)


class Outbox:
    """Messages in their order; one thread puts, another iterates, and sends each one.

    A mask must not wait for the reconstruction of earlier slices. So `put` waits only where more
    than `most_bytes` of arrays would wait.
    """

    def __init__(self, most_bytes: float) -> None:
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Json, Arrays]] = deque()
        self._n_bytes = 0  # of what waits, and of what is being sent
        self._ended = self._discarded = self._told_full = False
        self._sending = threading.Lock()
        self._dropped = False

    def put(self, body: Json, arrays: Arrays) -> None:
        """Have a message sent, unless all is discarded. Nobody may change its arrays any more."""
        size = _n_bytes(arrays)

        def room() -> bool:
            enough = not self._n_bytes or self._n_bytes + size <= self._most_bytes
            return enough or self._discarded

        with self._changed:
            if not room() and not self._told_full:
                self._told_full = True
                log.warning(
                    "%.3g GB of this scan wait for reconstruction: its lines wait too, and masks "
                    "will be late (mnet serve --max-queue-gb)",
                    self._n_bytes / 1e9,
                )
            self._changed.wait_for(room)
            if not self._discarded:
                self._n_bytes += size
                self._waiting.append((body, arrays))
                self._changed.notify_all()

    def end(self) -> None:
        """Let the iteration end behind what waits."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def discard(self) -> None:
        """Forget what waits, and whatever is put from now on."""
        with self._changed:
            self._discarded = True
            self._waiting.clear()
            self._changed.notify_all()

    def drop(self, tell: Callable[[], None]) -> None:
        """Discard all and end; `tell` the worker once, as the last thing that it hears."""
        self.discard()
        self.end()
        with self._sending:
            if not self._dropped:
                self._dropped = True
                tell()

    def unless_dropped(self, send: Callable[..., None], *arguments: Any) -> None:
        """Send something to a worker that has not been told to drop the scan."""
        with self._sending:
            if not self._dropped:
                send(*arguments)

    def __iter__(self) -> Iterator[tuple[Json, Arrays]]:
        """Give one message after the other, up to the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._ended)
                if not self._waiting:
                    return
                body, arrays = self._waiting.popleft()
            yield body, arrays
            with self._changed:
                self._n_bytes -= _n_bytes(arrays)
                self._changed.notify_all()


def _n_bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays)
