"""Where a reconstruction gets its end of the mask channel.

It asks a `ReconPort` for a `ReconLink`: the port is `gadgets.mask.binder.MaskService` where the
binder lives in the same process, and `RemoteReconPort` where it does not.
"""

import time
from typing import Protocol

import zmq

from .codec import Codec, MaskProtocolError
from .curve_keys import ClientKeys
from .dealer import decode, send
from .gate import require_safe
from .messages import ErrorMessage, Message
from .recon_end import POLL_S, Observer, ReconLink
from .zmq_thread import SocketThread, open_socket

IDLE_S = 1.0


class ReconPort(Protocol):
    """Where a reconstruction registers for a scan."""

    def open(self, scan_token: str | None, observe: Observer | None = None) -> ReconLink:
        """Register; without a token the link stays unpaired. `observe`: see `ReconLink`."""


class RemoteReconPort:
    """A `ReconPort` whose binder is another process; every link has its own socket and thread.

    Raises ValueError for an endpoint that leaves this machine without keys.
    """

    def __init__(self, endpoint: str, keys: ClientKeys | None = None) -> None:
        require_safe(endpoint, keys)
        self._endpoint = endpoint
        self._keys = keys

    def open(self, scan_token: str | None, observe: Observer | None = None) -> ReconLink:
        """Register a reconstruction; without a token it stays unpaired."""
        if scan_token is None:
            return ReconLink(None, lambda message: None, observe)
        return _RemoteLink(self._endpoint, self._keys, scan_token, observe)


class _RemoteLink(ReconLink):
    """A `ReconLink` with a DEALER of its own."""

    def __init__(
        self,
        endpoint: str,
        keys: ClientKeys | None,
        scan_token: str,
        observe: Observer | None,
    ) -> None:
        self._codec = Codec()
        self._again_at = time.monotonic() + IDLE_S
        self._opened = open_socket(zmq.DEALER, endpoint, keys)
        self._thread = SocketThread(
            self._opened, on_frames=self._on_frames, on_tick=self._on_tick, name="mask-recon"
        )
        post = self._thread.post
        super().__init__(scan_token, lambda message: post(lambda: self._transmit(message)), observe)
        self._thread.start()
        self.begin()

    def close(self) -> None:
        """Leave the scan, close the socket and end the thread."""
        if self._closed:
            return
        super().close()
        self._thread.stop()
        self._opened.context.term()

    def _transmit(self, message: Message) -> None:
        send(self._opened.socket, self._codec, message)

    def _on_frames(self, frames: list[bytes], _: str) -> None:
        message = decode(self._codec, frames)
        if isinstance(message, MaskProtocolError):
            self._transmit(ErrorMessage(reason=message.reason, detail=message.detail))
        else:
            self.receive(message)

    def _on_tick(self) -> float:
        now = time.monotonic()
        if (
            now >= self._again_at and self.hello() is None
        ):  # perhaps there was no room, or no binder
            self._again_at = now + IDLE_S
            self.begin()
        for mask in self.due(now):
            self._transmit(mask)
        return POLL_S if self.waiting() else IDLE_S
