"""Slow readers: a client that takes no image for long holds up its own scan alone."""

import socket
from collections.abc import Iterator

from gadgets.mrd.items import Image
from gadgets.mrd.messages import Close, read_message
from gadgets.mrd.sockets import SocketReader
from tests.gadgets.helpers.synthetic import Scanned, scanned
from tests.torture.effort import Effort, Outcome
from tests.torture.hosts import PATIENCE_S, Running, in_bytes, running

SMALL_BUFFER = 4096  # bytes that the kernel takes for the client


def run(effort: Effort) -> Iterator[Outcome]:
    """Read slowly, beside a scan that is read at once."""
    with running() as host:
        yield slow(effort, host)


def slow(effort: Effort, host: Running) -> Outcome:
    """Send whole scans and read nothing until others have been served."""
    outcome, before = Outcome(what="slow readers"), host.held()
    n_slices = effort.times(60, 4)
    scan = scanned(n_slices=n_slices, n_coils=2)
    for _ in range(effort.times(50, 1)):
        sock = _unread(host, scan)
        with sock:
            if wrong := host.scan():
                outcome.fault(f"a scan beside a client that does not read gave {wrong}")
            n_images = _images(sock)
            if n_images != n_slices:
                outcome.fault(f"{n_images} of {n_slices} images came in the end")
        outcome.n += 1
    if wrong := host.settles(before):
        outcome.fault(wrong)
    return outcome


def _unread(host: Running, scan: Scanned) -> socket.socket:
    """Send a scan on a connection of small buffers, and read nothing of it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.settimeout(PATIENCE_S)
    sock.connect((host.address.host, host.address.port))
    sock.sendall(in_bytes(scan))
    return sock


def _images(sock: socket.socket) -> int:
    """Read to CLOSE, and count the images."""
    read, n = SocketReader(sock), 0
    while not isinstance(message := read_message(read), Close):
        n += isinstance(message, Image)
    return n
