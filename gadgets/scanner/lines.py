"""Where the lines of a scan come from: those of a file, as they were recorded.

A recording knows nothing of when a line is measured. Simulated lines, which do, are those of
`gadgets.scanner.simulated_lines`.
"""

from collections.abc import Sequence
from typing import Protocol

from mnet.sequence.echo_order import IDLE, Rows

from ..mrd.geometry import Geometry
from ..mrd.header_layouts import Flag, is_imaging
from ..mrd.items import Acquisition

SliceKey = tuple[int, int]  # slice, repetition


class SliceLines(Protocol):
    """What the scanner does in one slice, one shot after the other."""

    def dummy(self) -> None:
        """Pulse without acquiring."""

    def wait(self, ms: float) -> None:
        """Let time pass in which there is nothing to measure."""

    def shot(self, rows: Rows) -> list[Acquisition]:
        """Measure the rows (train,) of a shot, IDLE where an echo is not used."""


class Lines(Protocol):
    """The lines of all slices, and the noise readouts before them."""

    @property
    def noise(self) -> Sequence[Acquisition]:
        """Readouts without signal."""

    def of(self, key: SliceKey) -> SliceLines:
        """Begin a slice."""


def slice_keys(acquisitions: Sequence[Acquisition]) -> list[SliceKey]:
    """Return the slices of a file, repetition after repetition."""
    keys = {
        (int(line.header["slice"]), int(line.header["repetition"]))
        for line in acquisitions
        if is_imaging(int(line.header["flags"]))
    }
    return sorted(keys, key=lambda key: (key[1], key[0]))


class RecordedLines:
    """The lines of a file; all contrasts and averages of a row are sent at its echo."""

    def __init__(self, acquisitions: Sequence[Acquisition], geometry: Geometry) -> None:
        self.noise: list[Acquisition] = []
        self._rows: dict[SliceKey, dict[int, list[Acquisition]]] = {}
        for line in acquisitions:
            flags = int(line.header["flags"])
            if flags & Flag.NOISE:
                self.noise.append(line)
            elif is_imaging(flags):
                key = int(line.header["slice"]), int(line.header["repetition"])
                row = geometry.row(line.header["kspace_encode_step_1"])
                self._rows.setdefault(key, {}).setdefault(row, []).append(line)

    def of(self, key: SliceKey) -> SliceLines:
        """Begin a slice."""
        return _RecordedSlice(self._rows[key])


class _RecordedSlice:
    def __init__(self, rows: dict[int, list[Acquisition]]) -> None:
        self._rows = rows

    def dummy(self) -> None:
        """Leave the lines as they are."""

    def wait(self, ms: float) -> None:
        """Leave the lines as they are."""

    def shot(self, rows: Rows) -> list[Acquisition]:
        """Return the recorded lines of these rows."""
        return [line for row in rows if row != IDLE for line in self._rows[int(row)]]
