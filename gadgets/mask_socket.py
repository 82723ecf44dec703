"""ZeroMQ as the mask channel uses it: loopback only, bounded sockets, one thread per socket."""

import ipaddress
import logging
import math
import socket
import threading
from collections import deque
from collections.abc import Callable

import zmq

from .mask_protocol import MAX_MESSAGE

LINGER_MS = 200
HEARTBEAT_MS = 1000
DEAD_AFTER_MS = 5000
Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]
logger = logging.getLogger(__name__)


def require_loopback(endpoint: str) -> None:
    """Raise ValueError unless the endpoint stays on this machine."""
    if endpoint.startswith("ipc://"):
        return
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        local = endpoint.startswith("tcp://") and ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name or a wildcard
        local = False
    if not local:
        raise ValueError(
            f"mask endpoint {endpoint}: expected tcp://127.0.0.1:PORT, tcp://[::1]:PORT or ipc://, "
            "because anything that leaves this machine needs CURVE keys and an allow-list"
        )


def open_socket(kind: int, endpoint: str) -> tuple[Context, Socket]:
    """Bind a ROUTER or connect a DEALER with the contract's limits, identity unset.

    Raises ValueError for an endpoint that is not local, zmq.ZMQError for one that cannot be used.
    """
    require_loopback(endpoint)
    context: Context = zmq.Context()
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, LINGER_MS)
    made.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    made.setsockopt(zmq.IPV6, int("[" in endpoint))
    made.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_AFTER_MS)
    made.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    try:
        if kind == zmq.ROUTER:
            made.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a vanished peer is an error, not silence
            made.bind(endpoint)
        else:
            made.connect(endpoint)
    except zmq.ZMQError:
        context.destroy(0)
        raise
    return context, made


class SocketThread:
    """The one thread that may touch a socket: reads it, ticks, and runs what others post.

    `on_frames` gets every message, `on_tick` is called between them and returns the seconds until
    it wants to be called again. Whatever they raise is logged and the thread lives on: one bad
    message must not take the channel from the other scans.
    """

    def __init__(
        self,
        owned: Socket,
        *,
        on_frames: Callable[[list[bytes]], None],
        on_tick: Callable[[], float],
        name: str,
    ) -> None:
        self._socket = owned
        self._on_frames = on_frames
        self._on_tick = on_tick
        self._posted: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; from now on the socket is its own."""
        self._thread.start()

    def post(self, call: Callable[[], None]) -> None:
        """Have the thread run `call` soon; from any thread, without waiting."""
        self._posted.append(call)
        try:
            self._wake.send(b"\0")
        except BlockingIOError:
            pass  # a full pipe wakes it as well
        except OSError:
            logger.debug("posted to a mask channel that is closed")

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
        wait = 0.0
        try:
            while not self._stopping:
                ready = dict(poller.poll(math.ceil(max(0.0, wait) * 1000)))
                if self._woken.fileno() in ready:
                    self._woken.recv(4096)
                while self._posted:
                    self._guarded(self._posted.popleft())
                if self._socket in ready:
                    self._read_all()
                wait = self._tick()
        finally:
            self._socket.close()

    def _read_all(self) -> None:
        for _ in range(100):  # then let the others have their turn
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._guarded(lambda frames=frames: self._on_frames(frames))  # type: ignore[misc]

    def _tick(self) -> float:
        wait = [1.0]
        self._guarded(lambda: wait.append(self._on_tick()))
        return min(wait)

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # the boundary: see the class docstring
            logger.exception("mask channel: a message was dropped")
