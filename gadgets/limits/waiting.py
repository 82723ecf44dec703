"""How long a socket waits for its peer, and how soon it learns that the peer is gone.

The kernel counts: a call that waits for longer without a byte fails with EAGAIN, in a blocking
socket too. So reading and writing have limits of their own, and no call of the kernel is added.
"""

import socket
import struct

_TIMEVAL = struct.Struct("ll")  # s, us
# A machine that lost power, or its network, is noticed after 10 + 3 * 5 s.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


def prepare(sock: socket.socket) -> None:
    """Let what is sent leave at once, and have the kernel ask a silent peer whether it is there.

    Raises OSError where the peer has left already. Sockets that are not TCP stay as they are.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def wait_for_input(sock: socket.socket, seconds: float) -> None:
    """Have reads fail with BlockingIOError after so long without a byte."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))


def wait_for_room(sock: socket.socket, seconds: float) -> None:
    """Have writes fail with BlockingIOError where the peer takes no byte for so long."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(seconds))


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return _TIMEVAL.pack(whole, max(int((seconds - whole) * 1e6), 0 if whole else 1))
