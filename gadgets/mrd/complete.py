"""Is a scan on disk all there? What plays a file as if it were complete, or learns from it, asks.

Lines may be missing, which their headers show (`line_index`); samples may be missing, and k-space
may lie off its centre, which only the numbers show.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..errors import IncompleteError
from .echo import centred
from .geometry import Geometry
from .items import Acquisition, Bool, Complex, Ints
from .kspace_buffer import KspaceBuffer

OFF_CENTRE = "frames with their strongest line away from the header's centre"  # counted

# Of a receiver that gives whole numbers, a sample of one coil can be zero by chance.
_FEW_ZEROS = 0.01
_NEARLY_FULL = 0.75  # of the rows between the outermost ones
_REGULAR = 0.8  # of the gaps are alike
_STRONGER = 2.0  # by so much, in power, the centre must be missed: noise alone has no centre


def placed(lines: Sequence[Acquisition], geometry: Geometry) -> Complex:
    """Place the lines of one image, (ky, coils, kx); of a doubled line the first is taken."""
    centred_lines = [replace(line, data=centred(line, geometry)) for line in lines]
    buffer = KspaceBuffer.empty(geometry, *centred_lines[0].data.shape)
    for line in centred_lines:
        buffer.add(line, geometry)
    return buffer.mean()


def without_empty_edges(kspace: Complex, rows: Bool) -> Bool:
    """Return the rows (ky,) without those at either end that hold nothing: zeros are padding."""
    filled = np.flatnonzero(rows & kspace.any(axis=(1, 2)))
    if not filled.size:
        return rows
    inside = np.zeros_like(rows)
    inside[filled[0] : filled[-1] + 1] = True
    return rows & inside


def lost_rows(there: Bool, wanted: Ints) -> int:
    """Say how many rows of an image (ky,) seem to be lost; `wanted` are those of the limits.

    Nothing in MRD says which lines a scan without a mask meant to measure, so only what stands out
    counts: gaps in what is nearly fully sampled, few rows at its ends, wider gaps in a regular
    undersampling. Partial Fourier is none, and of an irregular undersampling nothing is said.
    """
    rows = wanted[there[wanted]]
    if rows.size < 4:
        return 0
    span, gaps = int(rows[-1] - rows[0]) + 1, np.diff(rows)
    if rows.size >= _NEARLY_FULL * span:
        ends = (int(rows[0] - wanted[0]), int(wanted[-1] - rows[-1]))
        few = max(1, wanted.size // 32)
        return span - rows.size + sum(end for end in ends if end <= few)
    wide = gaps[gaps > 1]
    step = int(np.bincount(wide).argmax())
    if (wide == step).mean() < _REGULAR:
        return 0
    return int(sum(gap // step - 1 for gap in wide if gap % step == 0))


def check_complete(kspace: Complex, rows: Bool, geometry: Geometry) -> None:
    """Look at one image (ky, coils, kx) whose rows (ky,) should have been measured.

    Samples that no row has, as those of a partial echo, are not missing.

    Raises
    ------
    IncompleteError
        If it is not finite, rows or single samples are missing, or its strongest row is not at the
        centre that the header names.
    """
    if not np.isfinite(kspace).all():
        raise IncompleteError("expected finite values, got NaN or infinity")
    missing = np.flatnonzero(rows & ~kspace.any(axis=(1, 2)))
    if missing.size:
        raise IncompleteError(
            f"expected all {rows.sum()} rows within the limits, got only zeros in {missing.size} "
            f"of them, first row {missing[0]}: not fully sampled"
        )
    there: Bool = np.asarray(kspace[rows].any(axis=1))  # (rows, kx)
    share = float(there[:, there.any(axis=0)].mean())
    if share < 1 - _FEW_ZEROS:
        raise IncompleteError(
            f"expected all samples of {rows.sum()} rows, got {100 * share:.0f} % of them and zeros "
            "for the others: not fully sampled"
        )
    strongest = off_centre(np.square(np.abs(kspace)).sum(axis=(1, 2)))
    if strongest is not None:
        raise IncompleteError(
            f"the strongest line is ky {geometry.counter(strongest)}, but the header's center is "
            f"{geometry.center}: --header ky_center=COUNTER sets another"
        )


def off_centre(power: NDArray[np.floating]) -> int | None:
    """Return the strongest row of power (ky,) where it is far from the middle, None elsewhere.

    Phase in the object moves the strongest line too, by a few at most.
    """
    centre, strongest, few = power.size // 2, int(power.argmax()), max(2, power.size // 20)
    if power[strongest] < _STRONGER * power[max(centre - few, 0) : centre + few + 1].max():
        return None
    return strongest
