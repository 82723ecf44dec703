"""What every reader of a whole file gives, and such a file out of what is in memory already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..mrd.header_layouts import ACQUISITION_HEADER
from ..mrd.items import Acquisition, Ints, Waveform


class KspaceFile(Protocol):
    """An MRD header, and readouts that are read when they are asked for."""

    @property
    def kind(self) -> str:
        """What it is, for messages."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def header(self) -> bytes:
        """XML."""

    @property
    def subject(self) -> str:
        """Whose scan it is."""

    @property
    def assumed(self) -> tuple[str, ...]:
        """What stands in place of a header, or of what that leaves out."""

    def headers(self) -> NDArray[np.void]:
        """Return all headers (lines,), ACQUISITION_HEADER records in file order."""

    def lines(self, numbers: Ints | None = None) -> list[Acquisition]:
        """Read the lines of some numbers, which ascend; all lines where none are given."""

    def waveforms(self) -> list[Waveform]:
        """Read all waveforms, in file order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InMemory:
    """A file that was read as a whole."""

    kind: str
    path: Path
    header: bytes
    acquisitions: Sequence[Acquisition]
    waves: Sequence[Waveform] = ()
    assumed: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """The file's name: formats that are read as a whole say nothing of whose scan it is."""
        return self.path.stem

    def headers(self) -> NDArray[np.void]:
        """Return all headers (lines,)."""
        return np.array([line.header for line in self.acquisitions], ACQUISITION_HEADER)

    def lines(self, numbers: Ints | None = None) -> list[Acquisition]:
        """Return the lines of some numbers; all where none are given."""
        if numbers is None:
            return list(self.acquisitions)
        return [self.acquisitions[number] for number in numbers.tolist()]

    def waveforms(self) -> list[Waveform]:
        """Return all waveforms."""
        return list(self.waves)
