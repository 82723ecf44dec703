"""`mnet conformance --listen`: mask peer and MRD sink for a vendor's sequence.

Every scope of the sequence's scans gets one trial of `TRIALS` as its calibration comes in; with
keys, the first scan meets a host with a wrong one. Two threads read, one for each socket, and put
what they read into a queue; all else happens on the caller's thread.
"""

import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType

import zmq
from typing_extensions import Self

from ..errors import GadgetsError
from ..mask.codec import Codec, MaskProtocolError
from ..mask.curve_keys import ServerKeys
from ..mask.messages import (
    Ack,
    Applied,
    ErrorMessage,
    Hello,
    MaskMessage,
    Message,
    Nack,
    Scope,
    Welcome,
)
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import is_imaging
from ..mrd.items import Acquisition
from ..mrd.messages import Close, Header
from ..mrd.messages import Message as MrdMessage
from .masks import Frames, MaskMaker
from .physics_notes import notes
from .sequence_rules import judge
from .sequence_trace import TRIALS, Line, ScanTrace, ScopeTrace, Trial
from .sockets import MaskChannel, MrdSink
from .verdicts import Verdict

Event = Callable[[], None]


class SequenceBench:
    """Plays the other side to sequences until all trials are done; a context manager.

    Raises ValueError for an unsafe endpoint, OSError and zmq.ZMQError for a taken one.
    """

    def __init__(
        self,
        endpoint: str,
        port: int,
        *,
        address: str = "127.0.0.1",
        keys: ServerKeys | None = None,
        grace_s: float = 0.25,
        trials: Sequence[Trial] = TRIALS,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._keys, self._grace_s, self._say = keys, grace_s, say
        self._codec = Codec()
        self._todo: list[Trial] = list(trials)
        self._scans: list[ScanTrace] = []
        self._scan = ScanTrace(impostor=keys is not None)
        self._maker: MaskMaker | None = None
        self._owners: dict[str, ScopeTrace] = {}  # by message id
        self._acting: ScopeTrace | None = None
        self._peers: set[bytes] = set()  # that said hello to this binding
        self._peer = b""  # the sequence
        self._restarted = False  # no mask any more in this scan
        self._restart_by: float | None = None  # the binder's restart is due, then at the latest
        self._closing: float | None = None  # the last answers are awaited until then
        self._sink = MrdSink(address, port, self._put_mrd)
        first = keys if keys is None else _impostor(keys)
        try:
            self._channel = MaskChannel(endpoint, first, self._put_mask)
        except BaseException:
            self._sink.close()
            raise
        self.endpoint, self.port = self._channel.endpoint, self._sink.port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()
        self._sink.close()

    def run(self, idle_s: float) -> list[Verdict]:
        """Serve scans until all trials are done or nothing came for `idle_s`; judge them."""
        last = time.monotonic()
        while self._todo or self._scan.scopes or self._closing or self._scan.impostor:
            try:
                self._events.get(timeout=0.05)()
                last = time.monotonic()
            except Empty:
                if time.monotonic() - last > idle_s:
                    self._say(f"nothing came for {idle_s:g} s")
                    break
            self._restart_when_quiet()
            self._close_when_answered()
        if self._scan.scopes or self._scan.hello is not None:
            self._scans.append(self._scan)
        return judge(self._scans, keys=self._keys is not None, grace_s=self._grace_s)

    @property
    def notes(self) -> list[str]:
        """What the physics asks beside the rules."""
        return notes(self._scans)

    # ---- events, with the instant at which they came ----------------------------------------

    def _put_mrd(self, message: MrdMessage | str) -> None:
        now = time.monotonic()
        self._events.put(lambda: self._mrd(message, now))

    def _put_mask(self, frames: Frames) -> None:
        now = time.monotonic()
        self._events.put(lambda: self._mask(frames[0], frames[1:], now))

    def _mrd(self, message: MrdMessage | str, now: float) -> None:
        if isinstance(message, Header):
            try:
                self._scan.geometry = Geometry.parse(message.xml)
            except GadgetsError as error:
                self._scan.faults.append(str(error))
            self._welcome()
        elif isinstance(message, Acquisition):
            if is_imaging(int(message.header["flags"])):
                self._line(message, now)
        elif isinstance(message, Close):
            if self._scan.geometry is None:  # a session that only asks for stored noise
                self._sink.send_close()
                return
            self._scan.closed = True
            self._closing = now + 4 * self._grace_s
        elif isinstance(message, str) and self._scan.geometry and not self._scan.closed:
            self._scan.faults.append(message)
            self._end_scan()

    def _line(self, item: Acquisition, now: float) -> None:
        header, scan = item.header, self._scan
        scan.first_line_at = scan.first_line_at or now
        repetition, hello = int(header["repetition"]), scan.hello
        each = hello is not None and hello.repetition == "each"
        trace = self._trace(Scope(slice=int(header["slice"]), repetition=repetition * each))
        names = ("contrast", "average", "phase", "set", "repetition")
        counter = int(header["kspace_encode_step_1"])
        trace.lines.append(
            Line(
                counter=counter,
                flags=int(header["flags"]),
                group=tuple(int(header[name]) for name in names),
                at=now,
            )
        )
        if hello is None or trace.calibrated_at is not None:
            return
        if set(hello.calibration) <= {line.counter for line in trace.lines}:
            trace.calibrated_at = now
            self._try(trace)

    def _trace(self, scope: Scope) -> ScopeTrace:
        trace = self._scan.scopes.get(scope)
        if trace is None:
            trace = ScopeTrace(scope=scope, trial=self._next_trial())
            self._scan.scopes[scope] = trace
        return trace

    def _next_trial(self) -> Trial:
        hello = self._scan.hello
        if self._scan.impostor:
            return "impostor"
        if self._restarted:
            return "restart"
        if hello is None or not self._todo:
            return "ordinary"
        if self._todo[0] == "group-size" and hello.group_size == 1:
            del self._todo[0]
        trial = self._todo.pop(0)
        self._say(f"  {trial}")
        return trial

    # ---- what the bench does ----------------------------------------------------------------

    def _try(self, trace: ScopeTrace) -> None:
        """Do to a scope whose calibration is in what its trial says."""
        make, scope = self._maker, trace.scope
        if make is None or self._restarted:
            return
        self._acting = trace
        match trace.trial:
            case "ordinary":
                self._offer(trace, make.good(scope))
            case "budget":
                self._refusable(trace, make.wrong_budget(scope))
            case "window":
                for mask in make.outside_window(scope):
                    self._refusable(trace, mask)
            case "group-size":
                self._refusable(trace, make.broken_group(scope))
            case "calibration":
                self._refusable(trace, make.calibration_missing(scope))
            case "duplicate":
                mask = make.good(scope)
                self._offer(trace, mask)
                self._send(self._codec.encode(mask))
            case "older":
                newer, older = make.pair(scope)
                self._offer(trace, newer)
                self._refusable(trace, older)
            case "foreign":
                self._refusable(trace, make.foreign(scope))
            case "oversized" | "malformed":
                garbage = (make.oversized if trace.trial == "oversized" else make.malformed)(
                    scope, self._codec
                )
                trace.n_garbage = len(garbage)
                for frames in garbage:
                    self._send(frames)
                self._offer(trace, make.good(scope))
            case "restart":
                self._restarted = True
                self._restart_by = time.monotonic() + self._grace_s

    def _offer(self, trace: ScopeTrace, mask: MaskMessage) -> None:
        trace.offered.append(mask)
        self._own(trace, mask)

    def _refusable(self, trace: ScopeTrace, mask: MaskMessage) -> None:
        trace.refusable.append(mask)
        self._own(trace, mask)

    def _own(self, trace: ScopeTrace, mask: MaskMessage) -> None:
        self._owners[mask.message_id] = trace
        self._send(self._codec.encode(mask))

    def _send(self, frames: Frames) -> None:
        self._channel.send(self._peer, frames)

    def _say_to(self, peer: bytes, message: Message) -> None:
        self._channel.send(peer, self._codec.encode(message))

    # ---- what the sequence says -------------------------------------------------------------

    def _mask(self, peer: bytes, frames: Frames, now: float) -> None:
        try:
            message = self._codec.decode(frames)
        except MaskProtocolError as error:
            self._scan.faults.append(f"a message of the sequence was dropped: {error}")
            self._say_to(peer, ErrorMessage(reason=error.reason, detail=error.detail))
            return
        if isinstance(message, Hello):
            self._hello(peer, message, now)
        elif peer not in self._peers:
            self._scan.strays.append(type(message).__name__)
            if not isinstance(message, ErrorMessage):
                self._say_to(peer, ErrorMessage(reason="no-hello", detail="say hello first"))
        elif isinstance(message, Ack | Nack):
            owner = self._owners.get(message.message_id or "")
            if owner is not None:
                owner.replies.append(message)
        elif isinstance(message, Applied):
            trace = self._trace(message.scope)
            trace.applied.append((message, now))
            if trace.trial == "late" and not trace.refusable and self._maker is not None:
                self._refusable(trace, self._maker.good(message.scope))
        elif isinstance(message, ErrorMessage):
            self._error(message)

    def _error(self, message: ErrorMessage) -> None:
        """Note an error at the scope whose garbage it answers, though the next one's lines came."""
        owing = (
            trace
            for trace in self._scan.scopes.values()
            if trace.trial == message.reason and len(trace.errors) < trace.n_garbage
        )
        trace = next(owing, self._acting)
        if trace is not None:
            trace.errors.append(message.reason)

    def _hello(self, peer: bytes, hello: Hello, now: float) -> None:
        if any(s.impostor and s.token() == hello.scan_token for s in self._scans):
            return  # it lay in the queue of a scan that could not reach its host
        self._peers.add(peer)
        self._peer = peer
        scan = self._scan
        if scan.hello is None:
            scan.hello, scan.hello_at = hello, now
            self._maker = MaskMaker(hello, seed=len(self._scans))
        elif scan.hello != hello:
            scan.faults.append("a second, different hello in one scan")
        self._welcome()

    def _welcome(self) -> None:
        """Say what a binder would: ready once both the hello and the MRD header are there."""
        hello = self._scan.hello
        if hello is None or self._restarted:
            return
        paired = self._scan.geometry is not None
        reason = "" if paired else "no reconstruction has this scan token"
        self._say_to(
            self._peer,
            Welcome(scan_token=hello.scan_token, paired=paired, ready=paired, reason=reason),
        )

    def _restart_when_quiet(self) -> None:
        """Take the ROUTER away once what earlier scopes said has come: it would be lost."""
        if self._restart_by is None:
            return
        before = (t for t in self._scan.scopes.values() if t.trial != "restart")
        if time.monotonic() > self._restart_by or all(t.applied and t.answered() for t in before):
            self._restart_by = None
            self._peers.clear()
            self._channel.restart(self._keys)

    def _close_when_answered(self) -> None:
        if self._closing is None:
            return
        late = time.monotonic() > self._closing
        if late or all(trace.answered() for trace in self._scan.scopes.values()):
            self._end_scan()

    def _end_scan(self) -> None:
        """Keep what was seen, be ready for the next scan, and only then let this one go."""
        impostor, restarted = self._scan.impostor, self._restarted
        self._scans.append(self._scan)
        self._scan = ScanTrace()
        self._closing = self._acting = self._maker = None
        self._restarted, self._restart_by = False, None
        self._peers.clear()
        if impostor:
            self._channel.restart(self._keys)
        self._sink.send_close()
        if self._todo:
            left = f"{len(self._todo)} trials are left"
            why = "; that host had a wrong key, the next has its own" if impostor else ""
            self._say(f"{left}: start the sequence again{why}")
        elif restarted:
            self._say("all trials are done")


def _impostor(keys: ServerKeys) -> ServerKeys:
    _, secret = zmq.curve_keypair()
    return ServerKeys(secret=secret, allowed=keys.allowed)
