"""Which lines of a file make which slice of a fully sampled scan, from their headers alone.

What is part of an image, and of which, is decided by `gadgets.mrd` as it is for a stream. Every
combination of slice, contrast, phase, repetition and set is a slice here, repetitions outermost.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import IncompleteError
from .echo import same_length
from .geometry import Geometry
from .header_layouts import Flag, ImageKey, flags_of, image_key, is_imaging
from .items import Bool, Ints

LOOPS = ("repetition", "set", "phase", "contrast", "slice")  # the outermost first


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LineIndex:
    """Where the lines of a file belong; lines are numbered as they lie in it."""

    slices: tuple[Ints, ...]  # the lines of every slice, ascending
    acquirable: Bool  # (ky,) rows that were measured, the same in every slice
    n_coils: int
    noise: Ints  # the noise readouts that whiten the lines
    dwell_us: float  # of the first line that is no noise; 0 where it is not known


def line_index(headers: NDArray[np.void], geometry: Geometry) -> LineIndex:
    """Sort the lines of a file by their headers (lines,).

    Raises
    ------
    IncompleteError
        If none is part of an image, if they disagree in coils or samples, or if slices have not
        all the same rows without a gap.
    GadgetError
        If a line is shorter or longer than the others of its contrast and set.
    """
    slices = _slices(headers, geometry)
    if not slices:
        raise IncompleteError("expected lines of an image, got none")
    n_coils = _n_coils(headers[np.concatenate(list(slices.values()))])
    noise, dwell_us = _noise(headers, n_coils)
    _check_lengths(headers, slices)
    return LineIndex(
        slices=tuple(slices.values()),
        acquirable=_measured(headers, slices, geometry),
        n_coils=n_coils,
        noise=noise,
        dwell_us=dwell_us,
    )


def _slices(headers: NDArray[np.void], geometry: Geometry) -> dict[ImageKey, Ints]:
    slices: dict[ImageKey, list[int]] = {}
    within = set(geometry.limit_counters.tolist())  # what lies outside is not placed
    for number, header in enumerate(headers):
        key, counter = image_key(header), int(header["kspace_encode_step_1"])
        if key.encoding == 0 and counter in within and is_imaging(flags_of(header)):
            slices.setdefault(key, []).append(number)
    order = sorted(slices, key=lambda key: [getattr(key, name) for name in LOOPS])
    return {key: np.array(slices[key], np.int64) for key in order}


def _check_lengths(headers: NDArray[np.void], slices: Mapping[ImageKey, Ints]) -> None:
    expected: dict[tuple[int, int], int] = {}
    for key, numbers in slices.items():
        for header in headers[numbers]:
            n = int(header["number_of_samples"])
            same_length(header, n, expected.setdefault((key.contrast, key.set), n))


def _measured(
    headers: NDArray[np.void], slices: Mapping[ImageKey, Ints], geometry: Geometry
) -> Bool:
    measured = np.zeros((len(slices), geometry.n_ky), bool)
    for rows, (key, numbers) in zip(measured, slices.items(), strict=True):
        rows[geometry.row(headers["kspace_encode_step_1"][numbers])] = True
        if not np.array_equal(rows, measured[0]):
            where = ", ".join(f"{name} {getattr(key, name)}" for name in LOOPS)
            raise IncompleteError(
                f"expected the same lines in every slice: {where} has {rows.sum()}, the first "
                f"slice {measured[0].sum()}, {(rows != measured[0]).sum()} differ"
            )
    filled = np.flatnonzero(measured[0])
    if filled[-1] - filled[0] + 1 != filled.size:
        raise IncompleteError(
            f"expected a fully sampled scan, got {filled.size} rows with gaps between them, "
            f"in {filled[-1] - filled[0] + 1}"
        )
    first: Bool = measured[0]
    return first


def _n_coils(headers: NDArray[np.void]) -> int:
    found = np.unique(headers["active_channels"])
    if found.size != 1:
        raise IncompleteError(
            f"expected the same number of coils in every slice, got {found.tolist()}"
        )
    return int(found[0])


def _noise(headers: NDArray[np.void], n_coils: int) -> tuple[Ints, float]:
    """Return the noise readouts before all lines, and the dwell time of the first line.

    Readouts of other coils, such as a prescan's, are passed over as by the pipeline's intake.
    """
    fitting = np.flatnonzero(headers["active_channels"] == n_coils)
    is_noise = (headers["flags"][fitting] & np.uint64(Flag.NOISE)) != 0
    first = int(is_noise.argmin())  # a scan has one scale: noise that comes later whitens nothing
    dwell_us = float(headers["sample_time_us"][fitting[first]])
    return fitting[:first], max(dwell_us, 0.0)
