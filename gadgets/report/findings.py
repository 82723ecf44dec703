"""What the report of a scan is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mnet.masks.line_plan import Bool
from mnet.score.comparison import Volume

from .physics import PhysicsFindings


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a report shows. Slices are in the order of ``scan["slices"]`` everywhere."""

    scan: Mapping[str, Any]  # the scan JSON: slices, summary
    volume: Volume
    center: int  # ky counter of k = 0
    reference: Tensor  # (slices, x, y) magnitudes of all lines
    images: Tensor  # (slices, x, y) magnitudes as they came back over the wire
    samplers: Mapping[str, Sequence[Bool]]  # masks that `rows` compares
    rows: Sequence[Mapping[str, Any]]  # of mnet.score.comparison.compare
    kept: Mapping[tuple[str, str], Tensor]  # images by (sampler, method), from compare
    physics: PhysicsFindings | None = None  # where lines were computed from tissue maps
    title: str = "Adaptive scan"
    details: Mapping[str, str]  # where all this comes from: data, models, commands

    def __post_init__(self) -> None:
        n = self.volume.n_slices
        found = {
            "scan slices": len(self.scan["slices"]),
            "received images": len(self.images),
            "reference images": len(self.reference),
        }
        wrong = {name: count for name, count in found.items() if count != n}
        if wrong:
            raise ValueError(f"the report needs {n} slices everywhere, got {wrong}")
        if self.images.shape != self.reference.shape:
            raise ValueError(
                f"received images are {tuple(self.images.shape)}, the reference is "
                f"{tuple(self.reference.shape)}"
            )

    @property
    def masks(self) -> Bool:
        """The masks (slices, ky) in force during the scan."""
        masks = np.zeros((self.volume.n_slices, self.volume.plan.acquirable.size), dtype=bool)
        for mask, entry in zip(masks, self.scan["slices"], strict=True):
            mask[np.asarray(entry["mask"], dtype=int) + self.volume.plan.center - self.center] = 1
        return masks
