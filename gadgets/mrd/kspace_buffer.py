"""Lines of one image, placed as they come: sums over averages, and which of them arrived.

A line's samples are x where it comes from a stream, and centred kx where a whole image is read
from a file: what is done here is the same for both.
"""

from dataclasses import dataclass, field
from itertools import repeat

import numpy as np

from .geometry import Geometry
from .header_layouts import Flag, flags_of
from .items import Acquisition, Burst, Complex, Ints


@dataclass(slots=True)
class KspaceBuffer:
    """One image on its way."""

    kspace: Complex  # (ky, coils, samples), sum over averages where n is not 0; as lines come
    n: Ints  # (ky,) how many averages of each row
    averages: set[tuple[int, int]] = field(default_factory=set)  # (row, average) received
    header: np.void | None = None  # of the line nearest to the centre
    ended: bool = False  # the sequence said that it was the last line
    reference: dict[int, Complex] = field(default_factory=dict)  # calibration-only lines, by row

    @classmethod
    def empty(cls, geometry: Geometry, n_coils: int, n_samples: int) -> "KspaceBuffer":
        """Make room for an image; what no line fills is cleared at its end alone."""
        kspace = np.empty((geometry.n_ky, n_coils, n_samples), np.complex64)
        return cls(kspace=kspace, n=np.zeros(geometry.n_ky, np.int64))

    def add(self, line: Acquisition, geometry: Geometry) -> bool:
        """Place a line within the matrix; False, and nothing done, if its like is there already."""
        row = geometry.row(int(line.header["kspace_encode_step_1"]))
        average = int(line.header["average"])
        if (row, average) in self.averages:
            return False
        self.averages.add((row, average))
        if self.n[row]:
            self.kspace[row] += line.data
        else:
            self.kspace[row] = line.data
        self.n[row] += 1
        self._look_at(line.header, geometry)
        last_average = average + 1 >= geometry.n_averages
        self.ended |= bool(flags_of(line.header) & Flag.LAST_IN_SLICE) and last_average
        return True

    def add_all(self, burst: Burst, geometry: Geometry) -> bool:
        """Place lines as `add` would one by one; False, and nothing done, if it would refuse one.

        None of them may be flagged as the last one.
        """
        rows = geometry.row(burst.counters)
        new = set(zip(rows.tolist(), repeat(int(burst.header["average"]))))
        if len(new) < rows.size or not new.isdisjoint(self.averages):
            return False
        self.averages |= new
        again = self.n[rows] > 0
        if again.any():
            self.kspace[rows[again]] += burst.data[again]
            self.kspace[rows[~again]] = burst.data[~again]
        else:
            self.kspace[rows] = burst.data
        self.n[rows] += 1
        centre = geometry.row(geometry.center)
        self._look_at(burst.headers[int(np.abs(rows - centre).argmin())], geometry)
        return True

    def mean(self) -> Complex:
        """Return the mean over averages (ky, coils, samples), 0 where nothing came; at the end."""
        self.kspace[self.n == 0] = 0
        if self.n.max() > 1:
            self.kspace /= np.maximum(self.n, 1).astype(np.float32)[:, None, None]
        return self.kspace

    def _look_at(self, header: np.void, geometry: Geometry) -> None:
        """Keep the header nearest to the centre."""
        if self.header is None or _off_centre(header, geometry) < _off_centre(
            self.header, geometry
        ):
            self.header = header


def _off_centre(header: np.void, geometry: Geometry) -> int:
    return abs(int(header["kspace_encode_step_1"]) - geometry.center)
