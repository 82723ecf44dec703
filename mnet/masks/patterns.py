"""A mask in relative coordinates, which can be realised for any plan.

A mask found for one matrix, budget and calibration is kept as the distances of its movable lines
from the calibration, and which side of k = 0 each lies on, from the inside out. Realised for the
plan it comes from it is the same mask; for another one the sequence is stretched, and which of two
rows at equal distance is taken goes on alternating as it did: good masks take about one of each
pair, and mirrored combs are worse by several percent.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .line_plan import Bool, LinePlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pattern:
    """Movable lines by distance, inside out."""

    reach: tuple[float, ...]  # of every line, 0 at the calibration's edge, 1 at the outermost row
    upper: tuple[bool, ...]  # whether it lies above k = 0

    @classmethod
    def of(cls, mask: Bool, plan: LinePlan) -> "Pattern":
        """Describe a mask (n,) of a plan.

        Raises
        ------
        ValueError
            If the mask is not one of the plan.
        """
        if mask.sum() != plan.n_lines or np.any(plan.calibration & ~mask):
            raise ValueError(
                f"mask has {mask.sum()} lines, {(mask & plan.calibration).sum()} of them "
                f"calibration; expected {plan.n_lines} and {plan.calibration.sum()}"
            )
        return cls.of_some(mask, plan)

    @classmethod
    def of_some(cls, mask: Bool, plan: LinePlan) -> "Pattern":
        """Describe the movable lines of a mask (n,) that may lack some of its plan's budget."""
        rows = np.flatnonzero(mask & plan.movable)
        reach = reach_of(plan)[rows]
        order = np.lexsort((rows, reach))
        return cls(
            reach=tuple(float(r) for r in reach[order]),
            upper=tuple(bool(u) for u in rows[order] >= plan.center),
        )

    def realise(self, plan: LinePlan) -> Bool:
        """Return the mask (n,) of this pattern for a plan, of exactly its budget."""
        n = plan.n_movable
        if n == 0 or not self.reach:
            return plan.mask(np.flatnonzero(plan.movable)[:n])
        place = (np.arange(n) + 0.5) * len(self.reach) / n - 0.5
        known = np.arange(len(self.reach))
        wanted = np.interp(place, known, self.reach)
        # how many of the first k lines lie above, as a curve through the known counts
        counts = np.concatenate([[0.0], np.cumsum(self.upper)])
        share = np.interp(
            (np.arange(n) + 1.0) * len(self.reach) / n, np.arange(counts.size), counts
        )
        target = share * n / len(self.reach)
        return plan.mask(_snap(wanted, target, plan))

    def to_json(self) -> dict[str, Any]:
        """Return the pattern as JSON has it."""
        return {
            "reach": [round(r, 6) for r in self.reach],
            "upper": "".join("+" if u else "-" for u in self.upper),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Pattern":
        """Read what `to_json` wrote."""
        return cls(
            reach=tuple(float(r) for r in content["reach"]),
            upper=tuple(sign == "+" for sign in content["upper"]),
        )


def reach_of(plan: LinePlan) -> NDArray[np.float64]:
    """Return how far every row (n,) is from the calibration, in units of the furthest movable."""
    rows = np.arange(plan.acquirable.size)
    block = np.flatnonzero(plan.calibration)
    if block.size:
        away = np.maximum(block[0] - rows, rows - block[-1]).astype(float)
    else:
        away = np.abs(rows - plan.center).astype(float)
    furthest = max(float(away[plan.movable].max(initial=1.0)), 1.0)
    reach: NDArray[np.float64] = away / furthest
    return reach


def _snap(
    wanted: NDArray[np.float64], target: NDArray[np.float64], plan: LinePlan
) -> NDArray[np.intp]:
    """Choose distinct rows near the wanted distances, inside out, `target` of them above."""
    reach = reach_of(plan)
    free = [
        [int(row) for row in rows[np.argsort(reach[rows], kind="stable")]]
        for rows in (
            np.flatnonzero(plan.movable & (np.arange(reach.size) < plan.center)),
            np.flatnonzero(plan.movable & (np.arange(reach.size) >= plan.center)),
        )
    ]
    chosen: list[int] = []
    n_above = 0
    for distance, above in zip(wanted, target, strict=True):
        side = int(above - n_above >= 0.5)
        if not free[side]:
            side = 1 - side
        nearest = min(free[side], key=lambda row: (abs(reach[row] - distance), reach[row]))
        free[side].remove(nearest)
        chosen.append(nearest)
        n_above += side
    return np.array(chosen, dtype=np.intp)
