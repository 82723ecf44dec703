"""Who may speak on the mask channel: CURVE, an allow-list, and a count of those turned away.

The binder answers libzmq's ZAP requests (RFC 27) itself, on the thread that owns its socket. Both
ends watch their handshakes, so that a wrong key is a word in a log instead of silence.
"""

import ipaddress
import logging
import struct
from collections.abc import Callable

import zmq
from zmq.utils import z85

from .curve_keys import ClientKeys, Keys, ServerKeys

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"adaptive-mask"
HANDSHAKE_MS = 5000
_FAILED = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "the key is not on the allow-list",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "one end uses CURVE and the other does not, or the "
    "host's public key is not its own",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "the handshake broke off: the host's public key is "
    "not its own, or only one end uses CURVE",
}
_EVENTS = sum(_FAILED) | int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]
log = logging.getLogger(__name__)


def require_safe(endpoint: str, keys: Keys | None) -> None:
    """Raise ValueError unless the endpoint stays on this machine or CURVE guards it."""
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if endpoint.startswith("ipc://") or (endpoint.startswith("tcp://") and is_loopback(host)):
        return
    if keys is None or not endpoint.startswith("tcp://"):
        raise ValueError(
            f"mask endpoint {endpoint}: expected tcp://127.0.0.1:PORT, tcp://[::1]:PORT or ipc://, "
            "because anything that leaves this machine is tcp:// and needs CURVE keys and an "
            "allow-list: make them with `mnet keys`, then give --mask-keys FOLDER"
        )


def is_loopback(host: str) -> bool:
    """Say whether an IP address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name or a wildcard
        return False


class Gate:
    """The keys of one socket, and what became of its handshakes.

    Make it before the socket is bound or connected. `sockets` are to be polled by the thread that
    owns the guarded one, and each handler called with what its socket receives.
    """

    def __init__(self, context: Context, guarded: Socket, keys: Keys) -> None:
        self.refused = 0  # handshakes
        self.reason: str | None = None  # of the last failure, until a handshake succeeds
        self._keys = keys
        self._guarded = guarded
        self.sockets: dict[Socket, Callable[[list[bytes]], None]] = {}
        guarded.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        guarded.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        if isinstance(keys, ClientKeys):
            guarded.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
            guarded.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
        else:
            guarded.setsockopt(zmq.CURVE_SERVER, 1)
            guarded.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
            guarded.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody gets in without our answer
            zap = context.socket(zmq.REP)
            zap.setsockopt(zmq.LINGER, 0)
            zap.bind(ZAP_ENDPOINT)
            self.sockets[zap] = lambda frames: self._admit(zap, frames)
        monitor = guarded.get_monitor_socket(_EVENTS)
        self.sockets[monitor] = self._handshake

    def close(self) -> None:
        """Close what was opened beside the guarded socket; before that one is closed."""
        self._guarded.disable_monitor()
        for each in self.sockets:
            each.close(0)

    def poll(self) -> None:
        """Handle everything that waits, without waiting."""
        for each, handle in self.sockets.items():
            while each.poll(0):
                handle(each.recv_multipart())

    def _admit(self, zap: Socket, frames: list[bytes]) -> None:
        zap.send_multipart(self._answer(frames))

    def _answer(self, frames: list[bytes]) -> list[bytes]:
        """Answer one ZAP request: 200 and the public key as user id, or 400."""
        version, request, domain, address, _, mechanism, *credentials = frames
        curve_key = z85.encode(credentials[0]) if mechanism == b"CURVE" and credentials else b""
        clients = self._keys.clients() if isinstance(self._keys, ServerKeys) else {}
        if domain == ZAP_DOMAIN and curve_key in clients:
            log.info("mask channel: %s connects from %s", clients[curve_key], address.decode())
            return [version, request, b"200", b"OK", curve_key, b""]
        if worth_a_line(self.refused + 1):
            log.warning(
                "mask channel: refused a client at %s, public key %s...: not on the allow-list "
                "(refusal %d)",
                address.decode(errors="replace"),
                curve_key[:8].decode(),
                self.refused + 1,
            )
        return [version, request, b"400", b"not on the allow-list", b"", b""]

    def _handshake(self, frames: list[bytes]) -> None:
        """Take in one event of the guarded socket: u16 event, u32 value; its address."""
        event, _ = struct.unpack("=HI", frames[0])
        if event not in _FAILED:
            self.reason = None
            return
        self.refused += 1
        self.reason = _FAILED[event]
        if event != zmq.EVENT_HANDSHAKE_FAILED_AUTH and worth_a_line(self.refused):
            log.warning(
                "mask channel: handshake failed: %s (refusal %d)", self.reason, self.refused
            )


def worth_a_line(count: int) -> bool:
    """Say whether to log the n-th refusal: a client that tries again and again fills no disk."""
    return count & (count - 1) == 0


def user_of(frame: zmq.Frame) -> str:
    """Return the public key of whoever sent a frame, as the gate confirmed it; "" without CURVE."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:  # no ZAP was asked
        return ""
