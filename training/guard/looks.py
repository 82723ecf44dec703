"""What a guard sees of scans, under the plans that a sequence may have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnet.masks.line_plan import LinePlan
from mnet.masks.strata import channels
from mnet.sampler.features import coil_features, features
from mnet.sampler.guard_numbers import NAMES, Float, guard_numbers
from training.data.corpus import Sample

FASTER = 6.0  # acceleration from which few calibration lines are a choice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Looks:
    """Numbers of scans; one that has several plans is there several times."""

    numbers: Float  # (looks, NAMES)
    n_coils: NDArray[np.int64]  # (looks,)
    own: NDArray[np.bool_]  # (looks,) under the scan's own plan

    def __len__(self) -> int:
        return len(self.numbers)

    def only(self, which: NDArray[Any]) -> "Looks":
        """Return some of the looks."""
        return Looks(numbers=self.numbers[which], n_coils=self.n_coils[which], own=self.own[which])

    def of_kind(self, kind: str) -> "Looks":
        """Return those at scans of one kind of channels."""
        return self.only(np.array([channels(n) == kind for n in self.n_coils.tolist()], dtype=bool))


def look(sample: Sample, plan: LinePlan) -> Float:
    """Return the numbers (NAMES,) of a scan under a plan."""
    lines = sample.kspace[None][..., torch.from_numpy(plan.calibration)]
    return guard_numbers(features(lines), plan, coil_features(lines))


def plans(sample: Sample, accelerations: Sequence[float], narrow: int) -> list[LinePlan]:
    """Return the plans of a scan: its own first, then of other widths of the calibration."""
    found = [sample.plan()]
    for acceleration in accelerations:
        usual = LinePlan.of(sample.acquirable, acceleration)
        found += [usual, usual.narrowed(narrow)] if acceleration >= FASTER else [usual]
    widths = [int(plan.calibration.sum()) for plan in found]
    return [plan for i, plan in enumerate(found) if widths[i] not in widths[:i]]


def joined(rows: Sequence[tuple[Float, int, bool]]) -> Looks:
    """Return looks from (numbers, channels, own) of each."""
    if not rows:
        nothing = np.zeros(0)
        return Looks(
            numbers=np.zeros((0, len(NAMES))),
            n_coils=nothing.astype(np.int64),
            own=nothing.astype(bool),
        )
    numbers, n_coils, own = (np.array(column) for column in zip(*rows, strict=True))
    return Looks(numbers=numbers, n_coils=n_coils, own=own)
