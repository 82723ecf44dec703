"""How the front tells the monitor: one event a datagram, which goes in whole or is dropped.

The bounded queue is the kernel's buffer between two processes. Nothing waits for room in it.
"""

import json
import socket
from typing import Any

Json = dict[str, Any]
LARGEST = 1 << 17  # bytes of an event: less than what the kernel holds for a socket by default
_END = b"\n"  # of the JSON, before an image's pixels


class Feed:
    """The front's end; may be used from any thread, and never waits or raises for the other one."""

    def __init__(self) -> None:
        self.dropped = 0  # events; approximate where threads drop at the same time
        self._sock: socket.socket | None = None

    def connect(self, sock: socket.socket | None) -> None:
        """Tell this SOCK_SEQPACKET socket from now on, and close the one before; None: nobody."""
        if sock is not None:
            sock.setblocking(False)
        before, self._sock = self._sock, sock
        if before is not None:
            before.close()

    def tell(self, event: Json, pixels: bytes = b"") -> None:
        """Hand an event over, or drop it where there is no room; `pixels` follow as they are."""
        sock = self._sock
        if sock is None:
            return
        try:
            sock.send(json.dumps(event).encode() + _END + pixels)
        except OSError:  # no room, or nobody there any more: the scan must not notice either
            self.dropped += 1


def read(datagram: bytes | memoryview) -> tuple[Json, bytes]:
    """Return the event of a datagram, and its pixels."""
    text, _, pixels = bytes(datagram).partition(_END)
    event: Json = json.loads(text)
    return event, pixels
