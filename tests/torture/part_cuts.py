"""Cuts: a stream that ends anywhere is an error of ours to its reader, and a host survives it."""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from gadgets.errors import GadgetsError
from gadgets.mrd.messages import Close, buffer_reader, read_message
from tests.torture.effort import Effort, Outcome
from tests.torture.hosts import Running, heard_to_its_end, in_bytes, running
from tests.torture.targets import SCAN

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the connection ends with a reset


def run(effort: Effort) -> Iterator[Outcome]:
    """Cut a scan's bytes in memory at every place, and on a socket at places drawn."""
    yield in_memory(effort)
    with running() as host:
        yield on_a_socket(effort, host)


def in_memory(effort: Effort) -> Outcome:
    """Read every beginning of a stream: whole messages, then EOFError."""
    outcome, data = Outcome(what="cuts in memory"), in_bytes(SCAN)
    for end in range(0, len(data), effort.times(1, 97)):
        read = buffer_reader(data[:end])
        try:
            while not isinstance(read_message(read), Close):
                pass
            outcome.fault(f"cut at {end} of {len(data)}: it was read to a CLOSE")
        except (EOFError, struct.error):
            pass
        except Exception as error:
            outcome.fault(f"cut at {end} of {len(data)}: {type(error).__name__}: {error}")
        outcome.n += 1
    return outcome


def on_a_socket(effort: Effort, host: Running) -> Outcome:
    """End connections in mid-stream, by end or by reset; the next scan is sound."""
    outcome, data, before = Outcome(what="cuts on a socket"), in_bytes(), host.held()
    for number in range(effort.times(2000, 6)):
        draw = effort.random("cut", number)
        end, reset = draw.randrange(len(data)), draw.random() < 0.5
        with host.connect() as sock, suppress(OSError, GadgetsError):
            sock.sendall(data[:end])
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            else:
                sock.shutdown(socket.SHUT_WR)
                heard_to_its_end(sock)
        outcome.n += 1
        if number % 50 == 0 and (wrong := host.scan()):
            outcome.fault(f"after a cut at {end}, reset {reset}: a sound scan gave {wrong}")
    if wrong := host.scan() or host.settles(before):
        outcome.fault(wrong)
    return outcome
