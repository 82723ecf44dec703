"""The reconstruction's end of a mask conversation, without any I/O."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

from .messages import (
    BROKEN,
    MAX_TEXT,
    Ack,
    Applied,
    Bye,
    ErrorMessage,
    Header,
    Hello,
    MaskMessage,
    Message,
    Nack,
    ReconHello,
    Scope,
    Welcome,
    as_record,
    check_mask,
    check_scope,
)

RESEND_S = 0.05
MAX_SCOPES = 4096  # of which it is kept what the sequence said that it applied
MAX_ANSWERS = 8  # to one mask that are noted: every copy of it is answered
POLL_S = 0.01  # how often to ask `due` while a mask is unanswered
Observer = Callable[[str, Header], None]
log = logging.getLogger(__name__)


class Unpaired(RuntimeError):  # noqa: N818  the word of the contract
    """No mask can be sent: `reason` says why there is not exactly one sequence and one recon."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"unpaired: {reason}")
        self.reason = reason


class ReconLink:
    """What one reconstruction knows of its scan, and the masks that are still unanswered.

    May be used from any thread. `post` hands a message to the thread that owns the socket. That
    thread calls `receive`, and `due` to learn what to send again. `observe(direction, record)` sees
    every message, under a lock: never two calls at once and none after `close`; it must be quick
    and leave the link alone.
    """

    def __init__(
        self,
        scan_token: str | None,
        post: Callable[[Message], None],
        observe: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = scan_token
        self._post = post
        self._observe = observe
        self._clock = clock
        self._lock = threading.RLock()
        self._hello: Hello | None = None
        self._state = Welcome(scan_token=scan_token or "", paired=False, ready=False, reason="")
        self._closed = False
        self._sequence_no = 0
        self._unanswered: dict[str, tuple[MaskMessage, float, float]] = {}  # deadline, next resend
        self._applied: dict[Scope, Applied] = {}
        self._answers: dict[str, int] = {}  # how many, by the id of the mask
        self._warm = False

    def begin(self) -> None:
        """Say hello; replies must be able to reach `receive` by now."""
        if self._token is not None:
            self._post(ReconHello(scan_token=self._token, warm=self._warm))

    def hello(self) -> Hello | None:
        """Return what the sequence declared, None while unpaired."""
        with self._lock:
            return self._hello if self._state.paired else None

    def warmed(self) -> None:
        """Say that the models are warm: `ready` goes out once paired too."""
        self._warm = True
        if not self._closed:
            self.begin()

    def refuse(self, detail: str) -> None:
        """Tell the sequence that its hello and our configuration disagree: it will use fallbacks.

        Raises Unpaired.
        """
        with self._lock:
            token = self._paired_with().scan_token
            nack = Nack(
                scan_token=token,
                message_id=None,
                reason="disagreement",
                detail=detail[:MAX_TEXT],
            )
            self._send(nack)

    def send(self, scope: Scope, counters: Sequence[int], *, model: str, reason: str) -> str:
        """Send a mask until it is answered or the deadline passes; returns its id at once.

        Where the sequence's connection broke, the mask leaves as soon as it is back. Raises
        Unpaired, and ValueError for lines that are no mask of this scan.
        """
        with self._lock:
            away = self._hello is not None and not self._closed and self._is_away()
            hello = self._hello if away and self._hello else self._paired_with()
            wrong = check_mask(hello, counters) or check_scope(hello, scope)
            if wrong:
                raise ValueError(f"mask for {scope} refused: {wrong}")
            self._sequence_no += 1
            mask = MaskMessage(
                message_id=str(uuid.uuid4()),
                scan_token=hello.scan_token,
                sequence_no=self._sequence_no,
                scope=scope,
                ky_min=hello.ky_min,
                ky_max=hello.ky_max,
                counters=tuple(sorted(int(c) for c in counters)),
                model=model[:MAX_TEXT],
                reason=reason[:MAX_TEXT],
            )
            now = self._clock()
            deadline = now + hello.deadline_ms / 1000
            self._unanswered[mask.message_id] = (mask, deadline, now + RESEND_S)
            self._answers[mask.message_id] = 0
            if not away:
                self._send(mask)
            return mask.message_id

    def applied(self, scope: Scope) -> Applied | None:
        """Return what the sequence said it measures in a scope, None if it has not yet."""
        with self._lock:
            return self._applied.get(scope)

    def close(self) -> None:
        """Leave the scan."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._unanswered.clear()
            if self._token is not None:
                self._post(Bye(scan_token=self._token))

    def receive(self, message: Message) -> None:
        """Take in one message from the binder."""
        with self._lock:
            if isinstance(message, ErrorMessage):
                log.error("mask channel: our message was dropped: %s", message.reason)
                self._unpair(f"the mask channel dropped our message: {message.detail}")
                if message.reason == "no-hello" and not self._closed:
                    self.begin()  # the binder is a new one, or forgot us
            elif getattr(message, "scan_token", None) == self._token and not self._closed:
                self._take(message)

    def due(self, now: float) -> list[MaskMessage]:
        """Return the masks to send again now and forget those past their deadline."""
        with self._lock:
            alive = {i: entry for i, entry in self._unanswered.items() if now < entry[1]}
            again = [mask for mask, _, at in alive.values() if at <= now and self._state.paired]
            for mask in again:
                alive[mask.message_id] = (mask, alive[mask.message_id][1], now + RESEND_S)
                self._note("sent", mask)
            self._unanswered = alive
            return again

    def waiting(self) -> bool:
        """Say whether a mask may have to be sent again."""
        with self._lock:
            return bool(self._unanswered)

    def _take(self, message: Message) -> None:
        match message:
            case Hello():
                self._hello = message
            case Welcome():
                if message == self._state:
                    return
                self._state = message
                if message.paired:  # what waited for the sequence to come back is due
                    waited = self._unanswered.items()
                    self._unanswered = {i: (mask, until, 0.0) for i, (mask, until, _) in waited}
                elif not self._is_away():
                    self._unanswered.clear()
            case Ack() | Nack():
                if not self._take_answer(message.message_id or ""):
                    return
            case Applied():
                if message.scope in self._applied or len(self._applied) >= MAX_SCOPES:
                    return  # the first one holds; and no peer fills memory or record
                self._applied[message.scope] = message
                done = [i for i, (m, _, _) in self._unanswered.items() if m.scope == message.scope]
                for message_id in done:
                    del self._unanswered[message_id]
            case Bye():
                self._unpair("the mask channel closed")
        self._note("received", message)

    def _take_answer(self, message_id: str) -> bool:
        """Take in an ack or nack; False for one of a mask that we never sent, or of many."""
        self._unanswered.pop(message_id, None)
        n = self._answers.get(message_id)
        if n is None or n >= MAX_ANSWERS:
            return False
        self._answers[message_id] = n + 1
        return True

    def _is_away(self) -> bool:
        """Say that the sequence was there and may come back."""
        return not self._state.paired and self._state.reason == BROKEN

    def _unpair(self, reason: str) -> None:
        self._state = replace(self._state, paired=False, ready=False, reason=reason)
        self._unanswered.clear()

    def _paired_with(self) -> Hello:
        if self._token is None:
            raise Unpaired("the scan carries no mnet_scan_token")
        if self._closed:
            raise Unpaired("the link is closed")
        if self._hello is None or not self._state.paired:
            raise Unpaired(self._state.reason or "no answer from the mask channel yet")
        return self._hello

    def _send(self, message: Message) -> None:
        self._post(message)  # first out, then on record
        self._note("sent", message)

    def _note(self, direction: str, message: Message) -> None:
        if self._observe is not None:
            self._observe(direction, as_record(message))
