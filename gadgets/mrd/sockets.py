"""Bytes from sockets, and to sockets and files, with few calls of the kernel and few copies."""

import fcntl
import select
import socket
import struct
import termios
from collections.abc import Callable, Iterable

import numpy as np

_INT = struct.Struct("i")

_AHEAD = 4096  # bytes read ahead of what was asked for: a few headers


class SocketReader:
    """Reads from a blocking socket; EOFError says how much was missing when the peer ended.

    Samples come straight into the memory they stay in, and the next header with them: one call of
    the kernel is all that a readout costs.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._space = memoryview(bytearray(_AHEAD))
        self._ahead = self._space[:0]  # what was read before it was asked for
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def __call__(self, n: int) -> memoryview:
        """Return the next `n` bytes, waiting for them: `fill` for one view, as every line needs."""
        data = np.empty(n, np.uint8).data  # not cleared, for it is filled
        done = min(n, len(self._ahead))
        data[:done], self._ahead = self._ahead[:done], self._ahead[done:]
        while done < n:
            received = self._sock.recvmsg_into((data[done:], self._space))[0]
            self._ahead = self._space[: max(0, received - (n - done))]
            if received == 0:
                raise _ended(n - done, n)
            done += received
        return data

    def fill(self, views: Iterable[memoryview]) -> None:
        """Fill all views of bytes one after the other, waiting for what is not there yet."""
        rest = [view for view in views if view]
        total = missing = sum(map(len, rest))
        while rest and self._ahead:
            known = min(len(rest[0]), len(self._ahead))
            rest[0][:known] = self._ahead[:known]
            self._ahead = self._ahead[known:]
            rest, missing = _after(rest, known), missing - known
        while rest:
            received = self._sock.recvmsg_into((*rest, self._space))[0]
            if received == 0:
                raise _ended(missing, total)
            self._ahead = self._space[: max(0, received - missing)]
            rest, missing = _after(rest, received), missing - received

    def ready(self) -> int:
        """Return how many bytes can be read without waiting, or a few less."""
        waiting = fcntl.ioctl(self._sock, termios.FIONREAD, bytes(_INT.size))
        return len(self._ahead) + int(_INT.unpack(waiting)[0])

    def wait(self, n: int, seconds: float) -> None:
        """Wait until `n` bytes are there, or the peer has ended, but no longer than told.

        The kernel counts them, and does so for TCP alone: on other sockets a few suffice.
        """
        missing = n - len(self._ahead)
        if missing <= 0:
            return
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, missing)
        self._poll.poll(1e3 * seconds)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read next."""
        self._ahead = memoryview(data + bytes(self._ahead))


def _ended(missing: int, total: int) -> EOFError:
    return EOFError(f"the peer closed the connection, {missing} of {total} bytes missing")


def _after(views: list[memoryview], n: int) -> list[memoryview]:
    """Return what is left of views whose first `n` bytes are done."""
    for i, view in enumerate(views):
        if n < len(view):
            return [view[n:], *views[i + 1 :]]
        n -= len(view)
    return []


def put_all(
    put: Callable[[list[memoryview]], int], buffers: Iterable[bytes | bytearray | memoryview]
) -> int:
    """Give buffers to `put` (`socket.sendmsg`, or `os.writev` of a file) until it took them all.

    Returns their length in bytes.
    """
    rest = [view for buffer in buffers if (view := memoryview(buffer).cast("B"))]
    total = sum(map(len, rest))
    while rest:
        rest = _after(rest, put(rest))
    return total
