"""Line masks: which phase-encode rows to acquire, always exactly `n_lines` of them.

A mask is a bool array over the rows of the encoded matrix. `acquirable` marks the rows that can be
measured at all, `calibration` those that always are; every function returns a mask that contains
the calibration, stays inside the acquirable rows and has exactly `n_lines` rows.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]


def budget(n_rows: int, acceleration: float) -> int:
    """Return the number of lines at a nominal acceleration of `n_rows` rows.

    Raises ValueError for an acceleration below 1.
    """
    if acceleration < 1:
        raise ValueError(f"acceleration {acceleration} is below 1")
    return max(1, int(n_rows // acceleration))


def n_calibration(n_lines: int) -> int:
    """Return how many of `n_lines` are calibration: a third, at least 16, at most half."""
    return min(max(n_lines // 3, 16), n_lines // 2)


def _width(n_lines: int, wanted: int | None, group_size: int) -> int:
    """Return the number of calibration lines: whole groups, rather more than fewer."""
    width = n_calibration(n_lines) if wanted is None else wanted
    whole = width + -width % group_size
    return whole if whole <= n_lines else width - width % group_size


def centre_block(acquirable: Bool, length: int, center: int) -> Bool:
    """Mark `length` rows around the row `center` of k = 0.

    Odd lengths are symmetric about `center`; even ones have their extra row below it. The block is
    moved, never shortened, where the acquirable rows end (partial Fourier).

    Raises
    ------
    ValueError
        If the acquirable rows do not hold `length` neighbouring rows at that place.
    """
    rows = np.flatnonzero(acquirable)
    if rows.size < length:
        raise ValueError(f"{length} calibration rows, but only {rows.size} can be acquired")
    start = int(np.clip(center - length // 2, rows[0], rows[-1] + 1 - length))
    block = np.zeros_like(acquirable)
    block[start : start + length] = True
    if np.any(block & ~acquirable):
        raise ValueError(f"rows {start}..{start + length - 1} are not all acquirable")
    return block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinePlan:
    """What a mask may choose from: rows (n,) bool, and how many lines in all.

    Plans that say the same are equal: what is known of one serves the scans after it.
    """

    acquirable: Bool
    calibration: Bool
    n_lines: int
    center: int  # row of k = 0

    def __post_init__(self) -> None:
        if np.any(self.calibration & ~self.acquirable):
            raise ValueError("calibration rows outside the acquirable rows")
        if not self.calibration.sum() <= self.n_lines <= self.acquirable.sum():
            raise ValueError(
                f"{self.n_lines} lines cannot hold {self.calibration.sum()} calibration lines "
                f"within {self.acquirable.sum()} acquirable rows"
            )

    def __eq__(self, other: object) -> bool:
        """Compare by value."""
        return isinstance(other, LinePlan) and self._value() == other._value()

    def __hash__(self) -> int:
        """Hash the value."""
        return hash(self._value())

    def _value(self) -> tuple[bytes, bytes, int, int]:
        rows = self.acquirable.tobytes(), self.calibration.tobytes()
        return (*rows, self.n_lines, self.center)

    @classmethod
    def of(
        cls,
        acquirable: Bool,
        acceleration: float,
        center: int | None = None,
        *,
        n_rows: int | None = None,
        group_size: int = 1,
        n_calibration: int | None = None,
    ) -> "LinePlan":
        """Choose budget and calibration for a nominal acceleration.

        It divides `n_rows` (the acquirable rows where not given; no budget exceeds those). The
        calibration and the lines after it come in whole groups of `group_size`, an echo train.
        `n_calibration` lines are calibration, about a third where not given, and as many more as
        fill a group; fewer suffice where coil maps come from a reference scan. Raises ValueError
        where the calibration has no room among the acquirable rows, or in the budget, or where the
        budget does not hold one group.
        """
        center = acquirable.size // 2 if center is None else center
        n_acquirable = int(acquirable.sum())
        n_rows = n_acquirable if n_rows is None else n_rows
        n_lines = min(budget(n_rows, acceleration), n_acquirable)
        if n_lines < group_size:
            raise ValueError(f"{n_lines} lines do not fill an echo train of {group_size}")
        width = _width(n_lines, n_calibration, group_size)
        block = centre_block(acquirable, width, center)
        n_lines -= (n_lines - width) % group_size
        return cls(acquirable=acquirable, calibration=block, n_lines=n_lines, center=center)

    def narrowed(self, n_calibration: int) -> "LinePlan":
        """Return the plan of the same budget with at most `n_calibration` calibration lines."""
        length = min(n_calibration, int(self.calibration.sum()))
        return replace(self, calibration=centre_block(self.acquirable, length, self.center))

    @property
    def movable(self) -> Bool:
        """Rows (n,) that a mask may take or leave."""
        return self.acquirable & ~self.calibration

    @property
    def n_movable(self) -> int:
        """How many rows a mask adds to the calibration."""
        return self.n_lines - int(self.calibration.sum())

    def mask(self, rows: NDArray[np.intp]) -> Bool:
        """Return the mask (n,) of the calibration and `rows`; ValueError off the budget."""
        mask = self.calibration.copy()
        mask[rows] = True
        if mask.sum() != self.n_lines:
            raise ValueError(f"mask has {mask.sum()} lines, expected {self.n_lines}")
        return mask

    def distance(self) -> NDArray[np.float64]:
        """Return |row - center| of every row (n,) as a fraction of the furthest acquirable one."""
        d = np.abs(np.arange(self.acquirable.size) - self.center).astype(float)
        return d / max(float(d[self.acquirable].max()), 1.0)
