"""One end of an MRD connection: messages in order and on record, a failure told, a clean end.

Who is at the other end decides how it is treated, and that is its `Manner`.
"""

import logging
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..errors import GadgetsError, place_of
from ..limits.settings import DEFAULT, Limits
from ..limits.waiting import wait_for_input, wait_for_room
from ..mrd.bursts import LineReader
from ..mrd.items import Acquisition, Burst, Image
from ..mrd.messages import Close, Message, Query, Response, message_buffers, read_message
from ..mrd.sockets import SocketReader, put_all
from ..pipeline.turn import Slack
from ..records.writer import Record

log = logging.getLogger(__name__)
SEND_S = 10.0  # to take the last images, for a peer that says nothing more
LINGER_S = 1.0  # for a peer to end too, where it may still be sending
END_S = 60.0  # in all, for one that sends on after its end
ASIDE_S = 2.0  # without taking a byte until the log says so

STOPPING = "the host is stopping and takes no further scans"


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

    `ahead` are messages that somebody else has read from the socket already. A peer that says
    nothing, or takes nothing, for longer than the `limits` counts as gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        manner: Manner,
        answer: Callable[[str], str],
        ahead: Iterable[Message] = (),
        limits: Limits = DEFAULT,
    ) -> None:
        self._sock = sock
        self._limits = limits
        self._silence_s = self._room_s = 0.0  # what a read, and a write, wait for at most
        sock.setblocking(True)  # the kernel keeps the time
        self._wait(limits.header_s, limits.stall_s)
        self._manner = manner
        self._answer = answer
        self._read = LineReader(SocketReader(sock), read_message)
        self._ahead = deque(ahead)  # read before their turn
        self._write_lock = threading.Lock()
        self._gone = False  # the peer takes nothing more
        self._ended = False  # CLOSE or end of the connection was read
        self.streaming = False  # a scan has begun
        self.record: Record | None = None  # of what is read from now on
        self.failed = False  # a failure was told: no image leaves any more
        self._failure = ""  # which
        self.cut = ""  # how the input ended without CLOSE
        self.unsent: OSError | None = None  # why the peer takes nothing more

    def next(self) -> Message:
        """Return the next message that is not a query; PeerGone where the connection has ended."""
        while True:
            try:
                message = self._ahead.popleft() if self._ahead else self._read.message()
            except (EOFError, OSError) as error:
                self._ended = True
                self._gone = not isinstance(error, BlockingIOError)  # the silent one may still hear
                raise self._vanished(error) from error
            if self._taken(message):
                return message

    def put_back(self, messages: Iterable[Message]) -> None:
        """Have messages read again, also a CLOSE."""
        self._ahead.extend(messages)
        self._ended = False

    def stream(self, slack: Slack) -> Iterator[Message | Burst]:
        """Give what follows, up to CLOSE; lines that lie ready together come as one.

        Lines without which nothing is late, as `slack` says, are let gather.

        Where the connection ends without CLOSE, or nothing comes for too long, `cut` says so
        afterwards; PeerGone if the peer takes nothing more then.
        """
        self.streaming = True
        self.expect_lines()
        while not self._ended:
            try:
                message = self._ahead.popleft() if self._ahead else self._read.next(slack.lines)
            except (EOFError, OSError) as error:
                self._break_off(error)
                log.warning("%s", self._vanished(error))
                if self._gone:
                    raise self._vanished(error) from error
                self._wait(self._silence_s, min(SEND_S, self._limits.stall_s))
                return
            if self._taken(message) and not self._ended:
                yield message

    def expect_lines(self) -> None:
        """Be as patient as a scan needs."""
        self._wait(self._limits.scan_s, self._limits.stall_s)

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
                put_all(self._put, message_buffers(message))
            except OSError as error:
                self._gone, self.unsent = True, error
                log.warning("the %s takes nothing more: %s", self._manner.peer, error)

    def check_taken(self) -> None:
        """Raise PeerGone where the peer takes nothing more: nobody needs the rest."""
        if self.unsent is not None:
            raise PeerGone(
                f"the {self._manner.peer} takes nothing more: {self.unsent}"
            ) from self.unsent

    def refuse(self, error: GadgetsError) -> None:
        """Tell why there is no session, and end: a peer that goes on talking is not heard out."""
        self.send(self._manner.complaint(words_of(error), error))
        self.cut = str(error)
        self.end(LINGER_S)

    def remark(self, text: str) -> None:
        """Tell what was odd about a scan, if the peer takes such messages."""
        if text and self._manner.remark is not None:
            self.send(self._manner.remark(text))

    def tell(self, error: BaseException) -> None:
        """Tell a failure, if none has been told."""
        if self.failed:
            return
        self.failed = True
        self._failure = text = words_of(error)
        level = logging.WARNING if isinstance(error, PeerGone) else logging.ERROR
        log.log(level, "the %s was told of a failure: %s", self._manner.peer, place_of(error))
        self.send(self._manner.complaint(text, error))

    def fail(self, error: BaseException) -> None:
        """Tell a failure, and read and record the input to its end: no acquired data is lost."""
        if self.failed:
            return
        self.tell(error)
        patience = self._manner.drain_s or self._limits.scan_s
        if self._manner.drain_s is not None and self.record is None:
            patience = LINGER_S
        self._wait(patience, self._room_s)
        try:
            while not self._ended:
                self._taken(self._ahead.popleft() if self._ahead else self._read.next())
        except (EOFError, OSError) as broken:
            self._break_off(broken)
        except GadgetsError as broken:  # the rest can no longer be told apart into messages
            self.cut = self.cut or str(broken)
        except Exception as broken:  # the boundary: what is left is lost, and this is all to say
            log.exception("the rest of the input cannot be read")
            self.cut = self.cut or words_of(broken)

    def stop(self, why: str) -> None:
        """Tell the peer that this host ends the session, and read no further; from any thread."""
        self.tell(GadgetsError(why))
        with suppress(OSError):  # it has ended by itself
            self._sock.shutdown(socket.SHUT_RD)

    def end(self, most_s: float = END_S) -> None:
        """Say CLOSE and end the connection; unread input would reset it and lose what was sent.

        A peer that sends on is listened to for `most_s` in all.
        """
        self.send(Close())
        if self.record is not None:
            self.record.close(self._failure)
        flags = 0 if self.cut else socket.MSG_DONTWAIT
        until = time.monotonic() + most_s
        with suppress(OSError):  # the peer closed first, or says nothing more
            self._sock.shutdown(socket.SHUT_WR)
            self._wait(LINGER_S, self._room_s)
            while self._sock.recv(1 << 16, flags) and time.monotonic() < until:
                pass
        self._sock.close()

    def keep(self, message: Message) -> None:
        """Put a message on record."""
        if self.record is not None:
            counter = (
                int(message.header["scan_counter"]) if isinstance(message, Acquisition) else None
            )
            self.record.message(message_buffers(message), counter)

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
        self.cut = self.cut or self._why(error)
        silent = isinstance(error, BlockingIOError)
        self._gone = self._gone or not (silent or self._manner.half_open)

    def _wait(self, input_s: float, room_s: float) -> None:
        """Set how long a read and a write wait for the peer."""
        if input_s != self._silence_s:
            wait_for_input(self._sock, input_s)
        if room_s != self._room_s:
            wait_for_room(self._sock, min(ASIDE_S, room_s))
        self._silence_s, self._room_s = input_s, room_s

    def _put(self, views: list[memoryview]) -> int:
        """Send what the peer takes of some bytes; TimeoutError where that is none for too long."""
        began, aside = time.monotonic(), False
        while True:
            try:
                return self._sock.sendmsg(views)
            except BlockingIOError:
                if time.monotonic() - began >= self._room_s:
                    raise TimeoutError(f"it took nothing for {self._room_s:g} s") from None
                if not aside:
                    log.warning(
                        "the %s takes nothing: its scan is set aside, and ends after %g s",
                        self._manner.peer,
                        self._room_s,
                    )
                aside = True

    def _vanished(self, error: Exception) -> PeerGone:
        return PeerGone(f"the {self._manner.peer} vanished: {self._why(error)}")

    def _why(self, error: Exception) -> str:
        """Say how the input ended."""
        if isinstance(error, BlockingIOError):
            return f"it sent nothing for {self._silence_s:g} s"
        return str(error)


class Connections:
    """Those that are open, so that a host that stops can let their scans end."""

    def __init__(self) -> None:
        self._open: set[MrdConnection] = set()
        self._changed = threading.Condition()
        self._stopping = False

    def add(self, connection: MrdConnection) -> None:
        """Note one that opened; a host that stops sends it away."""
        with self._changed:
            self._open.add(connection)
            stopping = self._stopping
        if stopping:
            connection.stop(STOPPING)

    def remove(self, connection: MrdConnection) -> None:
        """Note that one has ended."""
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def stop(self, grace_s: float) -> None:
        """End all: at once where no scan runs, else when it has ended or `grace_s` are over."""
        with self._changed:
            self._stopping = True
            idle = [one for one in self._open if not one.streaming]
        for one in idle:
            one.stop(STOPPING)
        with self._changed:
            n = sum(one.streaming for one in self._open)
            if n:
                log.warning("stopping: %d running scans have %g s to end", n, grace_s)
            self._changed.wait_for(lambda: not self._open, grace_s)
            late = list(self._open)
        for one in late:
            one.stop(f"{STOPPING}, and the scan did not end within {grace_s:g} s")

    def wait(self, seconds: float) -> None:
        """Wait until all have ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open, seconds)


def words_of(error: BaseException) -> str:
    """Return what a peer is told of a failure: our own kinds by their bare names."""
    if isinstance(error, GadgetsError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception_only(error)).strip()
