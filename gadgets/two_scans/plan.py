"""What the masks of two scans may choose from: the hello that a live sequence would have said."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mnet.masks.line_plan import Bool, LinePlan
from mnet.sampler.choosing import EXPECTED, Choosing
from mnet.weight_files import load_weights

from ..errors import ConfigError, IncompleteError
from ..mask.messages import N_LINES, Hello
from ..mrd.geometry import SMALLEST, Geometry, parse, text
from ..mrd.header_layouts import is_imaging
from ..mrd.items import Acquisition

TOKEN = "two-scans"
DEADLINE_MS = 1000.0  # of no meaning here, and a hello has one


class Measured(Protocol):
    """What a plan needs of a scan on disk."""

    @property
    def header(self) -> bytes:
        """Return the MRD header."""

    @property
    def acquisitions(self) -> Sequence[Acquisition]:
        """Return the lines, in file order."""

    @property
    def geometry(self) -> Geometry:
        """Return the header's numbers."""


def lines_by_slice(acquisitions: Sequence[Acquisition]) -> dict[int, list[Acquisition]]:
    """Return the imaging lines of every slice, in file order; noise and the like left out."""
    found: dict[int, list[Acquisition]] = {}
    for line in acquisitions:
        if is_imaging(int(line.header["flags"])):
            found.setdefault(int(line.header["slice"]), []).append(line)
    return dict(sorted(found.items()))


def counters_of(lines: Sequence[Acquisition]) -> list[int]:
    """Return the ky counters of lines, ascending."""
    return sorted(int(line.header["kspace_encode_step_1"]) for line in lines)


def echo_train(source: Measured) -> int:
    """Return the echoes of a train that the header tells, 1 where it does not."""
    return int(text(parse(source.header), "encoding/echoTrainLength") or 1)


def hello_of(
    first: Measured, *, acceleration: float | None = None, n_lines: int | None = None, train: int
) -> Hello:
    """Return the hello of a scan whose first part measured the calibration.

    The budget is `n_lines`, or what the header tells, or that of an acceleration; one given goes
    before the header.

    Raises
    ------
    IncompleteError
        If slices have not all the same calibration, it has gaps, or misses the centre.
    ConfigError
        If there is no room for a mask.
    """
    geometry = first.geometry
    calibration = _calibration(first, geometry)
    told = geometry.user.get(N_LINES)
    if n_lines is None and acceleration is None and told is not None and told.isdecimal():
        n_lines = int(told)
    acquirable = np.zeros(geometry.n_ky, dtype=bool)
    acquirable[geometry.row(geometry.limit_counters)] = True
    plan = _plan(
        geometry,
        acquirable,
        calibration,
        4.0 if acceleration is None else acceleration,
        n_lines,
        train,
    )
    sampler, _ = load_weights("mnet_select")
    if not isinstance(sampler, Choosing):
        raise ConfigError(
            f"weights 'mnet_select' are a {type(sampler).__name__}, expected {EXPECTED}"
        )
    try:
        return Hello(
            scan_token=TOKEN,
            ky_min=geometry.ky_min,
            ky_max=geometry.ky_max,
            center=geometry.center,
            acquirable=_counters(geometry, plan.acquirable),
            calibration=_counters(geometry, plan.calibration),
            n_lines=plan.n_lines,
            group_size=train,
            fallback=_counters(geometry, sampler.population(plan)),
            deadline_ms=DEADLINE_MS,
            scanner="two scans",
        )
    except ValueError as error:
        raise ConfigError(f"no masks can be decided for this scan: {error}") from error


def _calibration(first: Measured, geometry: Geometry) -> list[int]:
    slices = lines_by_slice(first.acquisitions)
    if list(slices) != list(range(geometry.n_slices)):
        raise IncompleteError(
            f"the first scan has lines of slices {list(slices)}, its header names "
            f"{geometry.n_slices} slices"
        )
    wanted = counters_of(slices[0])
    for number, lines in slices.items():
        got = counters_of(lines)
        if got != wanted or len(set(got)) != len(got):
            raise IncompleteError(
                f"slice {number} of the first scan has {len(got)} lines, {len(set(got))} of them "
                f"different, slice 0 has {len(wanted)}: expected the same calibration in all"
            )
    whole = wanted[-1] - wanted[0] + 1 == len(wanted)
    if len(wanted) < SMALLEST or not whole or not wanted[0] <= geometry.center <= wanted[-1]:
        raise IncompleteError(
            f"the first scan has {len(wanted)} lines from {wanted[0]} to {wanted[-1]}: expected "
            f"at least {SMALLEST} without a gap around the centre, {geometry.center}"
        )
    return wanted


def _plan(
    geometry: Geometry,
    acquirable: Bool,
    calibration: list[int],
    acceleration: float,
    n_lines: int | None,
    train: int,
) -> LinePlan:
    block = np.zeros_like(acquirable)
    block[geometry.row(np.array(calibration))] = True
    center = int(geometry.row(geometry.center))
    try:
        if n_lines is None:
            n_lines = LinePlan.of(
                acquirable, acceleration, center, group_size=train, n_calibration=len(calibration)
            ).n_lines
        return LinePlan(acquirable=acquirable, calibration=block, n_lines=n_lines, center=center)
    except ValueError as error:
        raise ConfigError(
            f"no mask can be planned: {error}; see --acceleration and --echo-train"
        ) from error


def _counters(geometry: Geometry, rows: Bool) -> tuple[int, ...]:
    return tuple(int(c) for c in geometry.counter(np.flatnonzero(rows)))
