"""Which shot follows which: dummies, calibration and chosen lines of every slice."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mnet.masks.line_plan import Bool, LinePlan
from mnet.sequence.echo_order import EchoOrder, Rows

from ..errors import ConfigError
from .protocol import Protocol, turns

Part = Literal["whole", "calibration", "adaptive"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shot:
    """One shot of a slice."""

    slice: int
    rows: Rows | None  # (train,) rows of the matrix, IDLE where an echo is not used; None: a dummy
    calibration: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Course:
    """What is played: a plan, an order, the masks, and which part of them."""

    plan: LinePlan
    order: EchoOrder
    masks: Mapping[int, Bool]  # by slice, (n,) rows, calibration included
    part: Part = "whole"
    dummies: int = 1
    interleaved: bool = True

    def __post_init__(self) -> None:
        n_calibration = int(self.plan.calibration.sum())
        if n_calibration % self.order.train:
            raise ConfigError(
                f"the calibration has {n_calibration} lines, no multiple of the train of "
                f"{self.order.train}: some echoes would measure nothing"
            )
        for number, mask in self.masks.items():
            n = int((mask & ~self.plan.calibration).sum())
            if n % self.order.train:
                raise ConfigError(
                    f"slice {number} has {n} lines beside its calibration, no multiple of the "
                    f"train of {self.order.train}"
                )

    def shots(self) -> Iterator[Shot]:
        """Give all shots in time."""
        each = [list(self._slice(number)) for number in turns(len(self.masks))]
        if not self.interleaved:
            yield from (shot for shots in each for shot in shots)
            return
        # every slice has as many lines, and so as many shots
        for together in zip(*each, strict=True):
            yield from together

    def _slice(self, number: int) -> Iterator[Shot]:
        for _ in range(self.dummies):
            yield Shot(slice=number, rows=None)
        if self.part != "adaptive":
            for rows in self.order.calibration(self.plan):
                yield Shot(slice=number, rows=rows, calibration=True)
        if self.part != "calibration":
            for rows in self.order.adaptive(self.masks[number], self.plan):
                yield Shot(slice=number, rows=rows)


def plan_of(protocol: Protocol, acceleration: float) -> LinePlan:
    """Plan calibration and budget as the scanner does; ConfigError where there is no room."""
    rows = np.ones(protocol.matrix[1], dtype=bool)
    try:
        return LinePlan.of(rows, acceleration, group_size=protocol.train)
    except ValueError as error:
        raise ConfigError(f"no mask can be planned at {acceleration:g}x: {error}") from error


def fixed_masks(plan: LinePlan, n_slices: int, *, weights: bool) -> dict[int, Bool]:
    """Return the best fixed mask for every slice, or where none is asked for the calibration."""
    mask = plan.calibration
    if weights:
        from mnet.sampler.choosing import EXPECTED, Choosing
        from mnet.weight_files import load_weights

        sampler, _ = load_weights("mnet_select")
        if not isinstance(sampler, Choosing):
            raise ConfigError(
                f"weights 'mnet_select' are a {type(sampler).__name__}, expected {EXPECTED}"
            )
        mask = sampler.population(plan)
    return dict.fromkeys(range(n_slices), mask)
