"""One end of an MRD connection: messages in order and on record, a failure told, a clean end."""

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ..errors import ProtocolError
from ..files.scan_record import Record
from ..mrd.bursts import LineReader
from ..mrd.items import Burst
from ..mrd.messages import Close, Message, Query, Response, Text, message_buffers
from ..mrd.sockets import SocketReader, put_all

log = logging.getLogger(__name__)
DRAIN_S = 60.0  # of silence until an erroneous scan's input counts as over
LINGER_S = 1.0  # for a client to end too, where it may still be sending


class Connection:
    """What every session does with its socket; `answer` is for info queries."""

    def __init__(self, sock: socket.socket, answer: Callable[[str], str]) -> None:
        self._sock = sock
        self._answer = answer
        self._read = LineReader(SocketReader(sock))
        self._write_lock = threading.Lock()
        self._failed = False  # no image leaves after an error
        self._gone = False  # the client takes nothing more
        self._ended = False  # CLOSE or end of the connection was read
        self._cut = ""  # how the connection ended without CLOSE
        self._ahead: deque[Message] = deque()  # read before their turn
        self._record: Record | None = None

    def _next(self) -> Message:
        """Read the next message that is not a query, and log it."""
        while True:
            message = self._ahead.popleft() if self._ahead else self._read.message()
            self._log(message)
            if isinstance(message, Close):
                self._ended = True
            if not isinstance(message, Query):
                return message
            answer = self._answer(message.key)
            self._send(Response(message.correlation, answer))

    def _next_lines(self) -> Message | Burst:
        """Read and log the next lines at once where they lie ready together, else `_next`."""
        burst = None if self._ahead else self._read.burst()
        if burst is None:
            return self._next()
        if self._record is not None:
            for line in burst.lines():
                self._log(line)
        return burst

    def _log(self, message: Message) -> None:
        if self._record is not None:
            self._record.message(message_buffers(message))

    def _send(self, message: Message) -> None:
        if self._gone:
            return
        try:
            with self._write_lock:
                put_all(self._sock.sendmsg, message_buffers(message))
        except OSError as error:
            self._gone = True
            log.warning("the client takes nothing more: %s", error)

    def _drain(self) -> None:
        """Read and record the input to its end, so that no acquired data is lost."""
        silence = DRAIN_S if self._record is not None else LINGER_S
        self._sock.settimeout(silence)
        try:
            while not self._ended:
                self._next()
        except (EOFError, OSError, ProtocolError) as error:
            self._cut = self._cut or str(error)
            self._ended = True

    def _fail(self, text: str) -> None:
        """Tell the client once, and read its input to the end."""
        if self._failed:
            return
        self._failed = True
        log.error("%s", text)
        self._send(Text(f"ERROR: {text}\n"))
        self._drain()

    def _end(self) -> None:
        """Say CLOSE and end the connection; unread input would reset it and lose what was sent."""
        self._send(Close())
        if self._record is not None:
            self._record.close()
        with suppress(OSError):  # the client closed first, or says nothing more
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(LINGER_S if self._cut else 0)
            while self._sock.recv(1 << 16):
                pass
        self._sock.close()
