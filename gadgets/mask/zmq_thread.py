"""ZeroMQ as the mask channel uses it: safe endpoints, bounded sockets, one thread per socket."""

import logging
import math
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from .codec import MAX_MESSAGE
from .curve_keys import Keys
from .gate import Context, Gate, Socket, require_safe, user_of

LINGER_MS = 200
HEARTBEAT_MS = 1000
DEAD_AFTER_MS = 5000
# How long another thread of the process may hold up the one that sends masks: in Python's own 5 ms
# a session that goes on with its data would add more to a mask's way than the network in its room.
TURN_S = 0.0005
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSocket:
    """A socket of the channel; `gate` where it uses keys."""

    context: Context
    socket: Socket
    gate: Gate | None

    def close(self) -> None:
        """Close everything; on the thread that owns the socket, and before it ends the context."""
        if self.gate is not None:
            self.gate.close()
        self.socket.close()


def open_socket(kind: int, endpoint: str, keys: Keys | None = None) -> ChannelSocket:
    """Bind a ROUTER or connect a DEALER with the contract's limits and an identity of its own.

    Raises ValueError for an endpoint that leaves this machine without keys, zmq.ZMQError for one
    that cannot be used.
    """
    require_safe(endpoint, keys)
    context: Context = zmq.Context()
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, LINGER_MS)
    made.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    made.setsockopt(zmq.IPV6, int("[" in endpoint))
    made.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_AFTER_MS)
    made.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    gate = None if keys is None else Gate(context, made, keys)
    try:
        if kind == zmq.ROUTER:
            made.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a vanished peer is an error, not silence
            made.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a connection that comes back is the new one
            made.bind(endpoint)
        else:
            # Its own at every start, and the same when a connection breaks and comes back. With
            # 16 random bytes nobody guesses it, and the first one must not be 0.
            made.setsockopt(zmq.IDENTITY, b"\x01" + os.urandom(16))
            made.connect(endpoint)
    except zmq.ZMQError:
        if gate is not None:
            gate.close()
        context.destroy(0)
        raise
    return ChannelSocket(context=context, socket=made, gate=gate)


class SocketThread:
    """The one thread that may touch a socket: reads it, ticks, and runs what others post.

    `on_frames` gets every message and its sender's public key ("" without CURVE), `on_tick` is
    called between them and returns the seconds until it wants to be called again. Whatever they
    raise is logged and the thread lives on: one bad message must not take the channel from the
    other scans.
    """

    def __init__(
        self,
        owned: ChannelSocket,
        *,
        on_frames: Callable[[list[bytes], str], None],
        on_tick: Callable[[], float],
        name: str,
    ) -> None:
        self._owned = owned
        self._socket = owned.socket
        self._on_frames = on_frames
        self._on_tick = on_tick
        self._posted: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; from now on the socket is its own."""
        sys.setswitchinterval(min(sys.getswitchinterval(), TURN_S))
        self._thread.start()

    def post(self, call: Callable[[], None]) -> None:
        """Have the thread run `call` soon; from any thread, without waiting."""
        self._posted.append(call)
        try:
            self._wake.send(b"\0")
        except BlockingIOError:
            pass  # a full pipe wakes it as well
        except OSError:
            log.debug("posted to a mask channel that is closed")

    def stop(self) -> None:
        """Run what was posted, close the socket and end the thread."""
        self.post(self._set_stopping)
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _set_stopping(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._woken.fileno(), zmq.POLLIN)
        gate = self._owned.gate
        for each in () if gate is None else gate.sockets:
            poller.register(each, zmq.POLLIN)
        wait = 0.0
        try:
            while not self._stopping:
                ready = dict(poller.poll(math.ceil(max(0.0, wait) * 1000)))
                if self._woken.fileno() in ready:
                    self._woken.recv(4096)
                if gate is not None:
                    self._guarded(gate.poll)
                while self._posted:
                    self._guarded(self._posted.popleft())
                if self._socket in ready:
                    self._read_all()
                wait = self._tick()
        finally:
            self._owned.close()

    def _read_all(self) -> None:
        for _ in range(100):  # then let the others have their turn
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            user = user_of(frames[-1])
            parts = [frame.bytes for frame in frames]
            self._guarded(lambda parts=parts, user=user: self._on_frames(parts, user))  # type: ignore[misc]

    def _tick(self) -> float:
        wait = [1.0]
        self._guarded(lambda: wait.append(self._on_tick()))
        return min(wait)

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # the boundary: see the class docstring
            log.exception("mask channel: a message was dropped")
