"""Masks that follow from a density alone: random, equispaced, low-pass, or placed evenly.

A mask is a bool array (n,) over the rows of a plan, of exactly its budget. A density is a float
array (n,); distances from the centre are fractions of that of the furthest acquirable row.
"""

import numpy as np
from numpy.typing import NDArray

from .line_plan import Bool, LinePlan


def uniform_random(plan: LinePlan, rng: np.random.Generator) -> Bool:
    """Choose the movable lines with equal probability, without replacement."""
    return plan.mask(rng.choice(np.flatnonzero(plan.movable), plan.n_movable, replace=False))


def variable_density(plan: LinePlan, rng: np.random.Generator, power: float = 4.0) -> Bool:
    """Choose lines without replacement, with probability (1 - distance)^power.

    Lustig et al. 2007, doi:10.1002/mrm.21391.
    """
    rows = np.flatnonzero(plan.movable)
    weight = (1 - plan.distance()[rows]) ** power + 1e-6  # the outermost line can be chosen too
    return plan.mask(rng.choice(rows, plan.n_movable, replace=False, p=weight / weight.sum()))


def equispaced(plan: LinePlan, offset: float = 0.5) -> Bool:
    """Choose the movable lines at equal spacing; `offset` in [0, 1) shifts the comb."""
    rows = np.flatnonzero(plan.movable)
    places = np.floor((np.arange(plan.n_movable) + offset) * rows.size / plan.n_movable)
    return plan.mask(rows[places.astype(int)])


def low_pass(plan: LinePlan) -> Bool:
    """Choose the movable lines nearest to the centre."""
    rows = np.flatnonzero(plan.movable)
    nearest = np.argsort(plan.distance()[rows], kind="stable")
    return plan.mask(rows[nearest[: plan.n_movable]])


def from_density(plan: LinePlan, density: NDArray[np.float64]) -> Bool:
    """Place lines evenly along a density over rows (n,), complementary on the sides of the centre.

    Outwards from the calibration, a line is taken wherever the cumulative density crosses a step;
    the steps of the upper side lie half-way between those of the lower side. Where the density is
    1/2 lines alternate exactly, and a row whose mirror image was left out is taken: the two halves
    of k-space carry nearly the same, up to the phase of the object. Random draws have neither.
    The density is scaled to the budget and cut at one line per row.
    """
    rows = np.flatnonzero(plan.movable)
    share = _fill(np.maximum(density[rows], 1e-9), plan.n_movable)
    below = rows < plan.center
    n_below = min(round(float(share[below].sum())), int(below.sum()))
    n_below = max(n_below, plan.n_movable - int((~below).sum()))
    lower = _place(rows[below][::-1], share[below][::-1], n_below, 0.75)
    upper = _place(rows[~below], share[~below], plan.n_movable - n_below, 0.25)
    return plan.mask(np.concatenate([lower, upper]))


def _place(
    rows: NDArray[np.intp], share: NDArray[np.float64], n: int, start: float
) -> NDArray[np.intp]:
    """Take `n` of the rows where start + cumulative share crosses an integer."""
    if n == 0:
        return rows[:0]
    steps = np.floor(np.cumsum(_fill(share, n)) + start + 1e-9)
    return rows[np.diff(steps, prepend=0.0) > 0]


def power_law(plan: LinePlan, power: float, cutoff: float = 1.0) -> NDArray[np.float64]:
    """Return the density (1 - distance / cutoff)^power over rows (n,), 0 beyond the cutoff."""
    density: NDArray[np.float64] = np.maximum(1 - plan.distance() / cutoff, 0.0) ** power
    return np.where(plan.distance() < cutoff, density, 0.0)


def _fill(weight: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Scale weights to the sum `total` with no entry above one."""
    full = np.zeros(weight.size, dtype=bool)
    while True:
        rest = total - full.sum()
        share = np.where(full, 1.0, weight * rest / max(weight[~full].sum(), 1e-12))
        over = (share > 1) & ~full
        if not over.any():
            return share
        full |= over
