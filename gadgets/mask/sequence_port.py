"""A sequence's end of the mask channel, as a scanner without threads of its own uses it."""

import time
from collections.abc import Sequence
from types import TracebackType

import zmq
from typing_extensions import Self

from .codec import Codec, MaskProtocolError
from .curve_keys import ClientKeys
from .dealer import decode, send
from .messages import Bye, ErrorMessage, Hello, MaskMessage, Message, Scope
from .sequence_end import SequenceInbox
from .zmq_thread import open_socket

AGAIN_S = 0.25  # until the hello goes out again, where no answer came


class SequencePort:
    """The sequence's end. One thread makes, uses and closes it; nothing runs in the background.

    Raises ValueError for an endpoint that leaves this machine without keys.
    """

    def __init__(self, endpoint: str, hello: Hello, keys: ClientKeys | None = None) -> None:
        self._codec = Codec()
        self._inbox = SequenceInbox(hello)
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
        return self._inbox.refused or (f"keys: {keys}" if keys else None)

    def wait_answer(self, timeout_s: float) -> bool:
        """Wait until the other side has said anything; False after the time or a wrong key."""
        until = time.monotonic() + timeout_s
        self._drain()
        while not self._inbox.answered and self.refused is None and self._wait_again(until):
            self._drain()
        return self._inbox.answered

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until a reconstruction is paired and warm; False after the time or a refusal."""
        until = time.monotonic() + timeout_s
        self._drain()
        while not self._inbox.ready and self.refused is None and self._wait_again(until):
            self._drain()
        return self._inbox.ready

    def poll(self, scope: Scope, until: float) -> MaskMessage | None:
        """Look for the mask of a scope until it is there or `time.monotonic()` passes `until`.

        With `until` in the past it looks exactly once and does not wait. The hello goes out again:
        to a binder that holds us for gone, because our connection broke, it says that we are here.
        """
        self._send(self._inbox.hello)
        self._drain()
        while self._inbox.mask(scope) is None and self._wait_again(until):
            self._drain()
        return self._inbox.mask(scope)

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
            self._inbox.apply(
                scope, counters, fallback=fallback, reason=reason, message_id=message_id
            )
        )

    def close(self) -> None:
        """Say bye and close the socket."""
        if not self._closed:
            self._closed = True
            self._drain()
            self._send(Bye(scan_token=self._inbox.hello.scan_token))
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

    def _wait_again(self, until: float) -> bool:
        """Wait for anything to arrive, saying hello again now and then; False after the instant."""
        while (left := until - time.monotonic()) > 0:
            if self._poller.poll(max(1, int(min(left, AGAIN_S) * 1000))):
                return True
            if left > AGAIN_S:  # the last one may have been lost with a connection
                self._send(self._inbox.hello)
        return False

    def _drain(self) -> None:
        if self._gate is not None:
            self._gate.poll()
        while True:
            try:
                frames = self._dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = decode(self._codec, frames)
            reply: Message | None
            if isinstance(message, MaskProtocolError):
                reply = ErrorMessage(reason=message.reason, detail=message.detail)
            else:
                reply = self._inbox.receive(message)
            if reply is not None:
                self._send(reply)

    def _send(self, message: Message) -> None:
        send(self._dealer, self._codec, message)
