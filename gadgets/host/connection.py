"""One end of an MRD connection: messages in order and on record, a failure told, a clean end.

Who is at the other end decides how it is treated, and that is its `Manner`.
"""

import logging
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..errors import GadgetsError
from ..files.record_writer import Record
from ..mrd.bursts import LineReader
from ..mrd.items import Burst, Image
from ..mrd.messages import Close, Message, Query, Response, message_buffers, read_message
from ..mrd.sockets import SocketReader, put_all

log = logging.getLogger(__name__)
SEND_S = 10.0  # to take the last images, for a peer that says nothing more
LINGER_S = 1.0  # for a peer to end too, where it may still be sending


class PeerGone(GadgetsError):  # noqa: N818  it says what happened
    """Whoever is at the other end has vanished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a connection treats whoever is at its other end."""

    peer: str  # who that is
    complaint: Callable[[str, BaseException], Message]  # what tells a failure
    remark: Callable[[str], Message] | None  # what tells of oddities; None: it takes no such thing
    check: Callable[[Message], None]  # raises ProtocolError for what must not be sent
    half_open: bool  # it takes messages also after its own have ended without CLOSE
    drain_s: float | None  # of silence until an erroneous scan's input is over; None: no limit


class MrdConnection:
    """What every session does with its socket; `answer` is for info queries.

    `ahead` are messages that somebody else has read from the socket already.
    """

    def __init__(
        self,
        sock: socket.socket,
        manner: Manner,
        answer: Callable[[str], str],
        ahead: Iterable[Message] = (),
    ) -> None:
        self._sock = sock
        self._manner = manner
        self._answer = answer
        self._read = LineReader(SocketReader(sock), read_message)
        self._ahead = deque(ahead)  # read before their turn
        self._write_lock = threading.Lock()
        self._gone = False  # the peer takes nothing more
        self._ended = False  # CLOSE or end of the connection was read
        self.record: Record | None = None  # of what is read from now on
        self.failed = False  # a failure was told: no image leaves any more
        self.cut = ""  # how the input ended without CLOSE
        self.unsent: OSError | None = None  # why the peer takes nothing more

    def next(self) -> Message:
        """Return the next message that is not a query; PeerGone where the connection has ended."""
        while True:
            try:
                message = self._ahead.popleft() if self._ahead else self._read.message()
            except (EOFError, OSError) as error:
                self._ended = self._gone = True
                raise PeerGone(f"the {self._manner.peer} vanished: {error}") from error
            if self._taken(message):
                return message

    def put_back(self, messages: Iterable[Message]) -> None:
        """Have messages read again, also a CLOSE."""
        self._ahead.extend(messages)
        self._ended = False

    def stream(self) -> Iterator[Message | Burst]:
        """Give what follows, up to CLOSE; lines that lie ready together come as one.

        Where the connection ends without CLOSE, `cut` says so afterwards; PeerGone if the peer
        takes nothing more then.
        """
        while not self._ended:
            try:
                message = self._ahead.popleft() if self._ahead else self._read.next()
            except (EOFError, OSError) as error:
                self._break_off(error)
                log.warning("the %s vanished: %s", self._manner.peer, error)
                if self._gone:
                    raise PeerGone(f"the {self._manner.peer} vanished: {error}") from error
                self._sock.settimeout(SEND_S)
                return
            if self._taken(message) and not self._ended:
                yield message

    def read_to_end(self) -> None:
        """Read, and record, all that comes up to CLOSE; PeerGone where none comes."""
        while not self._ended:
            self.next()

    def send(self, message: Message) -> None:
        """Send a message, unless the peer takes nothing more; no image after a failure.

        Raises ProtocolError for what this peer must not be sent.
        """
        self._manner.check(message)
        with self._write_lock:
            if self._gone or (self.failed and isinstance(message, Image)):
                return
            try:
                put_all(self._sock.sendmsg, message_buffers(message))
            except OSError as error:
                self._gone, self.unsent = True, error
                log.warning("the %s takes nothing more: %s", self._manner.peer, error)

    def remark(self, text: str) -> None:
        """Tell what was odd about a scan, if the peer takes such messages."""
        if text and self._manner.remark is not None:
            self.send(self._manner.remark(text))

    def tell(self, error: BaseException) -> None:
        """Tell a failure, if none has been told."""
        if self.failed:
            return
        self.failed = True
        text = words_of(error)
        log.log(logging.WARNING if isinstance(error, PeerGone) else logging.ERROR, "%s", text)
        self.send(self._manner.complaint(text, error))

    def fail(self, error: BaseException) -> None:
        """Tell a failure, and read and record the input to its end: no acquired data is lost."""
        if self.failed:
            return
        self.tell(error)
        if self._manner.drain_s is not None:
            self._sock.settimeout(LINGER_S if self.record is None else self._manner.drain_s)
        try:
            while not self._ended:
                self._taken(self._ahead.popleft() if self._ahead else self._read.next())
        except (EOFError, OSError) as broken:
            self._break_off(broken)
        except GadgetsError as broken:  # the rest can no longer be told apart into messages
            self.cut = self.cut or str(broken)

    def end(self) -> None:
        """Say CLOSE and end the connection; unread input would reset it and lose what was sent."""
        self.send(Close())
        if self.record is not None:
            self.record.close()
        with suppress(OSError):  # the peer closed first, or says nothing more
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(LINGER_S if self.cut else 0)
            while self._sock.recv(1 << 16):
                pass
        self._sock.close()

    def keep(self, message: Message) -> None:
        """Put a message on record."""
        if self.record is not None:
            self.record.message(message_buffers(message))

    def _taken(self, message: Message | Burst) -> bool:
        """Put on record what was read, and answer it if it is a query: then it goes no further."""
        if isinstance(message, Burst):
            if self.record is not None:
                for line in message.lines():
                    self.keep(line)
            return True
        self.keep(message)
        self._ended = self._ended or isinstance(message, Close)
        if isinstance(message, Query):
            self.send(Response(message.correlation, self._answer(message.key)))
            return False
        return True

    def _break_off(self, error: Exception) -> None:
        """Note that the input has ended without CLOSE."""
        self._ended = True
        self.cut = self.cut or str(error)
        self._gone = self._gone or not self._manner.half_open


def words_of(error: BaseException) -> str:
    """Return what a peer is told of a failure: our own kinds by their bare names."""
    if isinstance(error, GadgetsError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception_only(error)).strip()
