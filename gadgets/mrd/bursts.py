"""Messages from a socket, where lines that lie ready together come as bursts.

What loops over lines in Python costs more than their samples do. So a line that is followed by
others of its layout, received already, is read with them at once. Whoever knows that no line is
needed soon may let some gather first; otherwise nothing waits for a burst to grow, and a scanner
that sends a line at a time gets each one handled as it comes.
"""

from collections import deque
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .header_layouts import ACQUISITION_HEADER, ACQUISITION_ID, Flag, flags_of, is_imaging
from .items import Acquisition, Burst
from .sockets import SocketReader

MOST = 32  # lines of a burst: what lies ready grows in the kernel, and must fit the caches here
GATHER_S = 0.05  # that lines may take to gather: no slower sequence costs much a line at a time
_WIRE = np.dtype([("id", "<u2"), ("header", ACQUISITION_HEADER)])
_VARIES = (  # from line to line of one image
    "scan_counter",
    "acquisition_time_stamp",
    "physiology_time_stamp",
    "kspace_encode_step_1",
    "segment",
    "user",
    "user_int",
    "user_float",
)
Message = TypeVar("Message")
_COMPRESSED = Flag.COMPRESSION_ZFP | Flag.COMPRESSION_NHLBI


class LineReader(Generic[Message]):
    """Reads messages, or bursts of lines, in order; `read_message` reads one, and may raise."""

    def __init__(self, read: SocketReader, read_message: Callable[[SocketReader], Message]) -> None:
        self._read = read
        self._read_message = read_message
        self._layout: tuple[int, int] | None = None  # coils, samples of the line before
        self._next: deque[Acquisition | Burst] = deque()
        self._most = MOST

    def next(self, n_lines: int = 0) -> Message | Acquisition | Burst:
        """Return the next message, or the next lines if they lie ready together.

        Where lines flow, up to `n_lines` are let gather, for GATHER_S at most.
        """
        if not self._next and self._layout is not None:
            self._read_ready(*self._layout, n_lines)
        if self._next:
            return self._next.popleft()
        message = self._read_message(self._read)
        self._layout = None
        if isinstance(message, Acquisition) and message.trajectory is None:
            self._layout = message.data.shape[0], message.data.shape[1]
        return message

    def message(self) -> Message | Acquisition:
        """Return the next message, a line alone."""
        first = self.next()
        if isinstance(first, Burst):
            first, *rest = first.lines()
            self._next.extendleft(reversed(rest))
        return first

    def _read_ready(self, n_coils: int, n_samples: int, n_lines: int) -> None:
        """Read the lines of a layout that have been received whole."""
        size = _WIRE.itemsize + 8 * n_coils * n_samples
        if n_lines > 1:
            self._read.wait(min(n_lines, self._most) * size, GATHER_S)
        n = min(self._read.ready() // size, self._most)
        if n < 2 or n_samples == 0:
            return
        wire, data = np.empty(n, _WIRE), np.empty((n, n_coils, n_samples), np.complex64)
        parts = [
            part.data
            for pair in zip(_bytes_of(wire), _bytes_of(data), strict=True)
            for part in pair
        ]
        self._read.fill(parts)
        n_fit = 0
        for start, end in pairwise(_edges(wire)):
            if not _fits(wire[start], n_coils, n_samples):
                break
            burst = Burst(headers=wire["header"][start:end], data=data[start:end])
            if end - start > 1 and _is_plain(burst.header):
                self._next.append(burst)
            else:
                self._next.extend(burst.lines())
            n_fit = end
        if n_fit == n:
            self._most = min(2 * self._most, MOST)
        else:  # something else lies between: what was taken for lines is read again as what it is
            self._read.unread(b"".join(parts[2 * n_fit :]))
            self._most = max(2, n_fit)


def _edges(wire: NDArray[np.void]) -> list[int]:
    """Return where runs of lines begin whose headers agree, and the number of lines."""
    raw = _bytes_of(wire)
    breaks = np.flatnonzero(((raw[1:] ^ raw[:-1]) & _agreeing()).any(axis=1)) + 1
    return [0, *breaks.tolist(), len(wire)]


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.view(np.uint8).reshape(len(array), -1)


@cache
def _agreeing() -> NDArray[np.uint8]:
    """Mark the bits that the lines of a burst have in common."""
    line = np.full(_WIRE.itemsize, 0xFF, np.uint8).view(_WIRE)
    for name in _VARIES:
        line["header"][name] = 0
    return line.view(np.uint8)


def _fits(line: np.void, n_coils: int, n_samples: int) -> bool:
    """Say whether this is a line of the layout."""
    header = line["header"]
    return (
        line["id"] == ACQUISITION_ID
        and (header["active_channels"], header["number_of_samples"]) == (n_coils, n_samples)
        and header["trajectory_dimensions"] == 0
        and not flags_of(header) & _COMPRESSED
    )


def _is_plain(header: np.void) -> bool:
    flags = flags_of(header)
    return is_imaging(flags) and not flags & Flag.LAST_IN_SLICE
