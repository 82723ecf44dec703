"""The two sockets of the test bench; each is read by a thread of its own."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import zmq

from ..errors import GadgetsError
from ..limits.waiting import prepare
from ..mask.curve_keys import ServerKeys
from ..mask.zmq_thread import SocketThread, open_socket
from ..mrd.messages import Close, read_message, write_message
from ..mrd.messages import Message as MrdMessage
from ..mrd.sockets import SocketReader
from .masks import Frames

REBIND_S = 5.0


class MaskChannel:
    """A ROUTER that can be taken away and put back."""

    def __init__(
        self, endpoint: str, keys: ServerKeys | None, on_frames: Callable[[Frames], None]
    ) -> None:
        self.endpoint = endpoint
        self._on_frames = on_frames
        self._open(keys)

    def send(self, peer: bytes, frames: Frames) -> None:
        """Send to a peer that may be gone."""
        self._thread.post(lambda: self._transmit(peer, frames))

    def restart(self, keys: ServerKeys | None) -> None:
        """Close, and bind the same endpoint again."""
        self.close()
        self._open(keys)

    def close(self) -> None:
        """Close the socket and end its thread."""
        self._thread.stop()
        self._opened.context.term()

    def _open(self, keys: ServerKeys | None) -> None:
        until = time.monotonic() + REBIND_S
        while True:
            try:
                self._opened = open_socket(zmq.ROUTER, self.endpoint, keys)
                break
            except zmq.ZMQError as error:  # the port is not free again at once
                if error.errno != zmq.EADDRINUSE or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        self.endpoint = self._opened.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = SocketThread(
            self._opened,
            on_frames=lambda frames, _: self._on_frames(frames),
            on_tick=lambda: 1.0,
            name="bench-masks",
        )
        self._thread.start()

    def _transmit(self, peer: bytes, frames: Frames) -> None:
        with suppress(zmq.ZMQError):  # it left: its silence shows in the verdicts
            self._opened.socket.send_multipart([peer, *frames], zmq.NOBLOCK)


class MrdSink:
    """Takes MRD connections one after the other, on a thread of its own."""

    def __init__(
        self, address: str, port: int, on_message: Callable[[MrdMessage | str], None]
    ) -> None:
        self._listener = socket.create_server((address, port))
        self.port: int = self._listener.getsockname()[1]
        self._on_message = on_message
        self._sock: socket.socket | None = None
        threading.Thread(target=self._run, name="bench-mrd", daemon=True).start()

    def send_close(self) -> None:
        """Tell the sequence that its scan is over."""
        if self._sock is not None:
            with suppress(OSError):
                self._sock.sendall(write_message(Close()))

    def close(self) -> None:
        """Close the listener and the connection."""
        for each in (self._listener, self._sock):
            if each is not None:
                with suppress(OSError):  # the peer closed first
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def _run(self) -> None:
        while True:
            try:
                self._sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            with self._sock:
                self._read(self._sock)

    def _read(self, sock: socket.socket) -> None:
        prepare(sock)
        read = SocketReader(sock)
        try:
            while True:
                self._on_message(read_message(read))
        except (EOFError, OSError):
            self._on_message("the MRD connection ended")
        except GadgetsError as error:
            self._on_message(f"the MRD stream is broken: {error}")
