"""The one binder of the mask channel: pairs sequences with reconstructions and forwards.

`Binder` decides, without any I/O. `MaskService` gives it a ROUTER socket and a thread, and lets
reconstructions in its own process take part without a socket.

The rule of pairing: a pair is one sequence and one reconstruction with equal scan tokens, *ever*.
A second peer of either role, even after the first has left, may be a restarted one for which the
masks under way are wrong, so the token stays unpaired until all its peers are gone. A sequence
that restarts must draw a new token. A peer whose connection breaks and comes back is the same one
by its ZeroMQ identity, which it draws at its start, and says its hello again.
"""

import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

import zmq
from typing_extensions import Self

from ..errors import place_of
from .allowance import RATE, Allowances
from .codec import Codec, MaskProtocolError
from .curve_keys import ServerKeys
from .gate import worth_a_line
from .messages import (
    BROKEN,
    Ack,
    Applied,
    Bye,
    ErrorMessage,
    ErrorReason,
    Heartbeat,
    Hello,
    MaskMessage,
    Message,
    Nack,
    NackReason,
    ReconHello,
    Welcome,
)
from .recon_end import POLL_S, Observer, ReconLink
from .zmq_thread import SocketThread, open_socket

PROBE_S = 1.0
MAX_PEERS = 256  # over sockets: beyond, who waits longest without a partner makes room
Peer = bytes | int  # a ROUTER identity, or the number of a reconstruction in this process
Letter = tuple[Peer, Message]
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Scan:
    """Everybody who ever named one token, and who of them is still here."""

    sequences: dict[Peer, Hello] = field(default_factory=dict)
    recons: dict[Peer, bool] = field(default_factory=dict)  # warm?
    live: set[Peer] = field(default_factory=set)
    gone: set[Peer] = field(default_factory=set)  # said bye
    keys: dict[type, str] = field(default_factory=dict)  # of the first of each role
    introduced: bool = False  # the recon knows the sequence's hello
    said: Welcome | None = None

    def state(self, token: str) -> Welcome:
        why = ""
        if len(self.sequences) > 1 or len(self.recons) > 1:
            why = f"{len(self.sequences)} sequences and {len(self.recons)} reconstructions share it"
        elif not self.live & self.sequences.keys():
            broken = self.sequences.keys() - self.gone
            why = BROKEN if broken else "no sequence has this scan token"
        elif not self.live & self.recons.keys():
            why = "no reconstruction has this scan token"
        ready = not why and all(self.recons.values())
        return Welcome(scan_token=token, paired=not why, ready=ready, reason=why)


class Binder:
    """Pairing and forwarding; every method returns the letters that are to be delivered."""

    def __init__(self) -> None:
        self._scans: dict[str, _Scan] = {}
        self._tokens: dict[Peer, str] = {}
        self._keys: dict[Peer, str] = {}

    def tokens(self) -> dict[Peer, str]:
        """Return the scan token of everybody who said hello and has not left."""
        return dict(self._tokens)

    def receive(self, peer: Peer, message: Message, curve_key: str = "") -> list[Letter]:
        """Handle one message of one peer, who proved to hold `key` ("" where none are used)."""
        if (
            self._keys.get(peer, curve_key) != curve_key
        ):  # a routing id that another client used before
            return [*self.lost(peer), *self.receive(peer, message, curve_key)]
        match message:
            case Hello() | ReconHello():
                return self._greet(peer, message, curve_key)
            case Heartbeat() | ErrorMessage():
                return []
            case Bye():
                return self._left(peer, message)
            case Welcome():
                return [_error(peer, "role", "only the binder says welcome")]
        token = self._tokens.get(peer)
        if token is None:
            return [_error(peer, "no-hello", "say hello first")]
        return self._forward(peer, self._scans[token], token, message)

    def _left(self, peer: Peer, bye: Bye) -> list[Letter]:
        scan = self._scans.get(self._tokens.get(peer, bye.scan_token))
        if scan is None or peer not in scan.sequences.keys() | scan.recons.keys():
            return self.lost(peer)
        scan.gone.add(peer)
        if peer in self._tokens:
            return self.lost(peer)
        return self._announce(bye.scan_token)  # it was lost before its bye was read

    def lost(self, peer: Peer) -> list[Letter]:
        """Forget a peer that left or cannot be reached; unless it said bye it may come back."""
        token = self._tokens.pop(peer, None)
        self._keys.pop(peer, None)
        if token is None:
            return []
        scan = self._scans[token]
        scan.live.discard(peer)
        if not scan.live:
            del self._scans[token]
        return self._announce(token)

    def _greet(self, peer: Peer, hello: Hello | ReconHello, curve_key: str) -> list[Letter]:
        token = hello.scan_token
        if self._tokens.get(peer, token) != token:
            return [_error(peer, "conflict", "a peer has one scan token; connect anew for another")]
        room, moved = self._room_for(peer, hello)
        if not room:
            return [_error(peer, "conflict", f"{MAX_PEERS} peers are paired already")]
        return moved + self._join(peer, hello, curve_key)

    def _room_for(self, peer: Peer, hello: Hello | ReconHello) -> tuple[bool, list[Letter]]:
        """Say if there is room, and what to tell of whoever made it: who has no partner longest.

        A scan that one end runs already waits for nobody: its other end always gets in.
        """
        scan = self._scans.get(hello.scan_token)
        others = () if scan is None else scan.recons if isinstance(hello, Hello) else scan.sequences
        sockets = [one for one in self._tokens if isinstance(one, bytes)]
        if isinstance(peer, int) or peer in self._tokens or others or len(sockets) < MAX_PEERS:
            return True, []
        for one in sockets:
            token = self._tokens[one]
            if self._scans[token].state(token).paired:
                continue
            told = _error(one, "conflict", "no partner came and others needed the room; try again")
            return True, [told, *self.lost(one)]
        return False, []

    def _join(self, peer: Peer, hello: Hello | ReconHello, curve_key: str) -> list[Letter]:
        token = hello.scan_token
        scan = self._scans.setdefault(token, _Scan())
        if scan.keys.setdefault(type(hello), curve_key) != curve_key:
            # Refused instead of unpairing both: who holds another key cannot be a restarted peer.
            return [_error(peer, "conflict", "this scan belongs to a client with another key")]
        if peer in scan.gone:
            return [_error(peer, "conflict", "a peer that left connects anew to come back")]
        other = scan.recons if isinstance(hello, Hello) else scan.sequences
        if peer in other or (isinstance(hello, Hello) and scan.sequences.get(peer, hello) != hello):
            return [_error(peer, "conflict", "a hello fixes role and scan; it cannot be changed")]
        if isinstance(hello, Hello):
            scan.sequences[peer] = hello
        else:
            scan.recons[peer] = hello.warm or scan.recons.get(peer, False)
        self._tokens[peer], self._keys[peer] = token, curve_key
        scan.live.add(peer)
        return self._announce(token)

    def _announce(self, token: str) -> list[Letter]:
        scan = self._scans.get(token)
        if scan is None:
            return []
        state = scan.state(token)
        if state == scan.said:  # a newcomer always changes it, so that everybody is told
            return []
        scan.said = state
        letters: list[Letter] = []
        if state.paired and not scan.introduced:
            scan.introduced = True
            [hello], [recon] = scan.sequences.values(), scan.recons
            letters.append((recon, hello))
        told = (*scan.recons, *scan.sequences)  # recon first: it knows when the sequence is told
        return letters + [(peer, state) for peer in told if peer in scan.live]

    def _forward(
        self, peer: Peer, scan: _Scan, token: str, message: MaskMessage | Ack | Nack | Applied
    ) -> list[Letter]:
        from_recon = peer in scan.recons
        if isinstance(message, MaskMessage) != from_recon and not isinstance(message, Nack):
            return [_error(peer, "role", f"{type(message).__name__} is not for this role to say")]
        if message.scan_token != token:
            if isinstance(message, MaskMessage):
                return [_nack(peer, message, "foreign", "this peer's hello names another scan")]
            return [_error(peer, "conflict", "another scan's token")]
        state = scan.state(token)
        if state.paired:
            [receiver] = scan.sequences if from_recon else scan.recons
            return [(receiver, message)]
        if isinstance(message, MaskMessage):
            return [_nack(peer, message, "unpaired", state.reason)]
        return []  # nobody is there to hear the answer


def _error(peer: Peer, reason: ErrorReason, detail: str) -> Letter:
    return peer, ErrorMessage(reason=reason, detail=detail)


def _nack(peer: Peer, mask: MaskMessage, reason: NackReason, detail: str) -> Letter:
    token, message_id = mask.scan_token, mask.message_id
    return peer, Nack(scan_token=token, message_id=message_id, reason=reason, detail=detail)


class MaskService:
    """Binds the ROUTER and runs the `Binder`; a `ReconPort` for reconstructions in this process.

    Raises ValueError for an endpoint that leaves this machine without keys and zmq.ZMQError for
    one that is taken. With `keys` only clients on their allow-list get in.
    """

    def __init__(self, endpoint: str, keys: ServerKeys | None = None) -> None:
        self._codec = Codec()
        self._binder = Binder()
        self._allowances = Allowances()
        self._hellos: dict[bytes, list[bytes]] = {}  # frames of each peer's last hello
        self._dropped = 0  # messages
        self._links: dict[int, ReconLink] = {}
        self._numbers = itertools.count()
        self._next_probe = 0.0
        self._opened = open_socket(zmq.ROUTER, endpoint, keys)
        self._router = self._opened.socket
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._closed = False
        self._thread = SocketThread(
            self._opened, on_frames=self._receive, on_tick=self._tick, name="mask-binder"
        )
        self._thread.start()

    def open(self, scan_token: str | None, observe: Observer | None = None) -> ReconLink:
        """Register a reconstruction; without a token it stays unpaired."""
        number = next(self._numbers)
        post = self._thread.post
        link = ReconLink(
            scan_token, lambda message: post(lambda: self._from_link(number, message)), observe
        )
        if scan_token is not None:
            self._links[number] = link
            link.begin()
        return link

    @property
    def refused(self) -> int:
        """How many handshakes failed for their keys."""
        return 0 if self._opened.gate is None else self._opened.gate.refused

    def close(self) -> None:
        """Say bye to everybody, close the socket and end the thread."""
        if not self._closed:
            self._closed = True
            self._thread.post(self._say_bye)
            self._thread.stop()
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

    def _receive(self, frames: list[bytes], curve_key: str) -> None:
        peer, *rest = frames
        if not self._allowances.take(peer, sum(map(len, rest))):
            much = MaskProtocolError("conflict", f"more than {RATE} bytes a second")
            self._drop(peer, much)
            return
        if self._hellos.get(peer) == rest and peer in self._binder.tokens():
            return  # said again in case that its connection broke
        try:
            message = self._codec.decode(rest)
        except MaskProtocolError as error:
            self._drop(peer, error)
            return
        self._deliver(self._binder.receive(peer, message, curve_key))
        tokens = self._binder.tokens()
        if isinstance(message, Hello | ReconHello) and peer in tokens:
            self._hellos = {one: said for one, said in self._hellos.items() if one in tokens}
            self._hellos[peer] = rest

    def _drop(self, peer: bytes, error: MaskProtocolError) -> None:
        """Tell a peer that its message was dropped; whoever says nothing else fills no log."""
        self._dropped += 1
        if worth_a_line(self._dropped):
            log.warning(
                "mask channel: dropped a message, the %d. in all: %s, %s",
                self._dropped,
                error.reason,
                place_of(error),
            )
        if worth_a_line(max(1, self._allowances.refused(peer))):
            self._deliver([_error(peer, error.reason, error.detail)])

    def _from_link(self, number: int, message: Message) -> None:
        self._deliver(self._binder.receive(number, message))
        if isinstance(message, Bye):
            del self._links[number]

    def _deliver(self, letters: Iterable[Letter]) -> None:
        queue = deque(letters)
        while queue:
            peer, message = queue.popleft()
            if isinstance(peer, bytes):
                queue.extend(self._transmit(peer, message))
            elif peer in self._links:
                self._links[peer].receive(message)

    def _transmit(self, peer: bytes, message: Message) -> list[Letter]:
        """Send to a socket; returns the letters that follow if nobody is at its other end."""
        try:
            self._router.send_multipart([peer, *self._codec.encode(message)], zmq.NOBLOCK)
        except zmq.Again:  # it does not read; a mask is sent again, the rest is of no use to it
            log.warning("mask channel: a peer's queue is full, dropped %s", type(message))
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return self._binder.lost(peer)
        return []

    def _tick(self) -> float:
        now = time.monotonic()
        for number, link in list(self._links.items()):
            for mask in link.due(now):
                self._deliver(self._binder.receive(number, mask))
        if now >= self._next_probe:
            self._next_probe = now + PROBE_S
            self._deliver((p, Heartbeat()) for p in self._binder.tokens() if isinstance(p, bytes))
        return POLL_S if any(link.waiting() for link in self._links.values()) else PROBE_S

    def _say_bye(self) -> None:
        for peer, token in self._binder.tokens().items():
            self._deliver([(peer, Bye(scan_token=token))])
