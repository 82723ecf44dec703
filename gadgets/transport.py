"""Bytes from sockets, and to sockets and files, with few calls of the kernel and few copies."""

import socket
from collections.abc import Callable, Iterable

import numpy as np

from .item_codec import Buffer, Read

_AHEAD = 4096  # bytes read ahead of what was asked for: a few headers


def socket_reader(sock: socket.socket) -> Read:
    """Read from a blocking socket; EOFError says how much was missing when the peer ended.

    Samples come straight into the memory they stay in, and the next header with them: one call of
    the kernel is all that a readout costs.
    """
    ahead = memoryview(bytearray(_AHEAD))
    start = end = 0  # of what was read ahead

    def read(n: int) -> memoryview:
        nonlocal start, end
        data = np.empty(n, np.uint8).data  # not cleared, for it is filled
        known = min(n, end - start)
        data[:known] = ahead[start : start + known]
        start += known
        rest = data[known:]
        while rest:
            received = sock.recvmsg_into((rest, ahead))[0]
            if received == 0:
                raise EOFError(f"the peer closed the connection, {len(rest)} of {n} bytes missing")
            start, end = 0, max(0, received - len(rest))
            rest = rest[received:]
        return data

    return read


def put_all(put: Callable[[list[memoryview]], int], buffers: Iterable[Buffer]) -> int:
    """Give buffers to `put` (`socket.sendmsg`, or `os.writev` of a file) until it took them all.

    Returns their length in bytes.
    """
    rest = [view for buffer in buffers if (view := memoryview(buffer).cast("B"))]
    total = sum(map(len, rest))
    while rest:
        done = put(rest)
        while rest and done >= len(rest[0]):
            done -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][done:]
    return total
