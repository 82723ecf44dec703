"""The two ends of the mask channel as the rest of the project uses them.

A sequence holds a `SequencePort`. A reconstruction asks a `ReconPort` for a `ReconLink`: the port
is `gadgets.mask.binder.MaskService` where the binder lives in the same process, and
`RemoteReconPort` where it does not.
"""

import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import zmq

from .allow_list import Socket, require_safe
from .codec import (
    Applied,
    Bye,
    Codec,
    ErrorMessage,
    Hello,
    MaskMessage,
    MaskProtocolError,
    Message,
    Scope,
)
from .curve_keys import ClientKeys
from .recon_end import POLL_S, Observer, ReconSession, Unpaired
from .sequence_end import SequenceSession
from .zmq_thread import SocketThread, open_socket

__all__ = ["Observer", "ReconLink", "ReconPort", "RemoteReconPort", "SequencePort", "Unpaired"]
IDLE_S = 1.0
logger = logging.getLogger(__name__)


class ReconLink(Protocol):
    """One scan's reconstruction side."""

    def hello(self) -> Hello | None:
        """Return what the sequence declared, None while unpaired."""

    def warmed(self) -> None:
        """Say that the models are warm."""

    def refuse(self, detail: str) -> None:
        """Tell the sequence that its hello and our configuration disagree; raises Unpaired."""

    def send(self, scope: Scope, counters: Sequence[int], *, model: str, reason: str) -> str:
        """Send a mask without waiting, return its id; raises Unpaired, ValueError."""

    def applied(self, scope: Scope) -> Applied | None:
        """Return what the sequence measures in a scope, None if it has not said so."""

    def wait_applied(self, scope: Scope, timeout_s: float) -> Applied | None:
        """Wait for `applied`."""

    def close(self) -> None:
        """Leave the scan."""


class ReconPort(Protocol):
    """Where a reconstruction registers for a scan."""

    def open(self, scan_token: str | None, observe: Observer | None = None) -> ReconLink:
        """Register; without a token the link stays unpaired. `observe`: see `ReconSession`."""


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
            return ReconSession(None, lambda message: None, observe)
        return _RemoteLink(self._endpoint, self._keys, scan_token, observe)


class _RemoteLink(ReconSession):
    """A `ReconSession` with a DEALER of its own."""

    def __init__(
        self,
        endpoint: str,
        keys: ClientKeys | None,
        scan_token: str,
        observe: Observer | None,
    ) -> None:
        self._codec = Codec()
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
        _send(self._opened.socket, self._codec, message)

    def _on_frames(self, frames: list[bytes], _: str) -> None:
        message = _decode(self._codec, frames)
        if isinstance(message, MaskProtocolError):
            self._transmit(ErrorMessage(reason=message.reason, detail=message.detail))
        else:
            self.receive(message)

    def _on_tick(self) -> float:
        for mask in self.due(time.monotonic()):
            self._transmit(mask)
        return POLL_S if self.waiting() else IDLE_S


class SequencePort:
    """The sequence's end. One thread makes, uses and closes it; nothing runs in the background.

    Raises ValueError for an endpoint that leaves this machine without keys.
    """

    def __init__(self, endpoint: str, hello: Hello, keys: ClientKeys | None = None) -> None:
        self._codec = Codec()
        self._session = SequenceSession(hello)
        self._opened = open_socket(zmq.DEALER, endpoint, keys)
        self._dealer, self._gate = self._opened.socket, self._opened.gate
        self._poller = zmq.Poller()
        for each in (self._dealer, *(self._gate.sockets if self._gate else ())):
            self._poller.register(each, zmq.POLLIN)
        self._closed = False
        self._send(hello)

    @property
    def refused(self) -> str | None:
        """Why no mask will come, if the other side said so or its handshake failed."""
        keys = self._gate.reason if self._gate else None
        return self._session.refused or (f"keys: {keys}" if keys else None)

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until a reconstruction is paired and warm; False after the time or a refusal."""
        until = time.monotonic() + timeout_s
        self._drain()
        while not self._session.ready and self.refused is None and self._wait(until):
            self._drain()
        return self._session.ready

    def poll(self, scope: Scope, until: float) -> MaskMessage | None:
        """Look for the mask of a scope until it is there or `time.monotonic()` passes `until`.

        With `until` in the past it looks exactly once and does not wait.
        """
        self._drain()
        while self._session.mask(scope) is None and self._wait(until):
            self._drain()
        return self._session.mask(scope)

    def applied(
        self,
        scope: Scope,
        counters: Sequence[int],
        *,
        fallback: bool,
        reason: str,
        message_id: str | None = None,
    ) -> None:
        """Say what will be measured, before the first adaptive line; later masks are `late`.

        Raises ValueError for lines that are no mask of this scan, or a scope closed before.
        """
        self._drain()  # what lies in the inbox now still came before the decision was sealed
        self._send(
            self._session.apply(
                scope, counters, fallback=fallback, reason=reason, message_id=message_id
            )
        )

    def close(self) -> None:
        """Say bye and close the socket."""
        if not self._closed:
            self._closed = True
            self._drain()
            self._send(Bye(scan_token=self._session.hello.scan_token))
            self._opened.close()
            self._opened.context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, until: float) -> bool:
        """Wait for anything to arrive; False once the instant has passed."""
        left = until - time.monotonic()
        return left > 0 and bool(self._poller.poll(max(1, int(left * 1000))))

    def _drain(self) -> None:
        if self._gate is not None:
            self._gate.poll()
        while True:
            try:
                frames = self._dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = _decode(self._codec, frames)
            reply: Message | None
            if isinstance(message, MaskProtocolError):
                reply = ErrorMessage(reason=message.reason, detail=message.detail)
            else:
                reply = self._session.receive(message)
            if reply is not None:
                self._send(reply)

    def _send(self, message: Message) -> None:
        _send(self._dealer, self._codec, message)


def _send(dealer: Socket, codec: Codec, message: Message) -> None:
    try:
        dealer.send_multipart(codec.encode(message), zmq.NOBLOCK)
    except zmq.Again:  # the binder is away and the queue full: the scan goes on without it
        logger.warning("mask channel: no binder takes %s", type(message).__name__)


def _decode(codec: Codec, frames: list[bytes]) -> Message | MaskProtocolError:
    try:
        return codec.decode(frames)
    except MaskProtocolError as error:
        logger.warning("mask channel: dropped a message: %s", error)
        return error
