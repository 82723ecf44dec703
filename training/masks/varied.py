"""One mask for scans of different plans: losses as functions of a mask of one reference plan.

A mask of the reference plan is carried to a scan's own plan as a pattern (mnet.masks.patterns) and
tried there, so that coordinate descent on the reference finds a pattern that is good for scans of
several widths, coil counts and budgets at once. What a line of the reference promises is read from
the gradient at the scan's rows that lie as far out on the same side. Losses are relative to that of
the best member of the family on the scan, so that easy scans and noisy ones count alike.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnet.masks.family import family
from mnet.masks.line_plan import Bool, LinePlan
from mnet.masks.patterns import Pattern, reach_of
from training.masks.icd import Loss, losses_of


def carried(mask: Bool, reference: LinePlan, plan: LinePlan) -> Bool:
    """Carry a mask (ky,) of the reference to another plan; lines it lacks are lacking there too."""
    lacking = reference.n_lines - int(mask.sum())
    if lacking:
        share = lacking * plan.n_movable / max(reference.n_movable, 1)
        n_lines = plan.n_lines - min(max(1, round(share)), plan.n_movable)
        plan = replace(plan, n_lines=n_lines)
    return Pattern.of_some(mask, reference).realise(plan)


def neighbours(reference: LinePlan, plan: LinePlan) -> NDArray[np.float32]:
    """Return weights (reference rows, ky) by which rows of a plan stand for those of another."""
    found = np.zeros((reference.acquirable.size, plan.acquirable.size), np.float32)
    ours, theirs = reach_of(reference), reach_of(plan)
    for upper in (False, True):
        rows, others = (
            np.flatnonzero(p.movable & ((np.arange(p.acquirable.size) >= p.center) == upper))
            for p in (reference, plan)
        )
        if not others.size:
            continue
        others = others[np.argsort(theirs[others], kind="stable")]
        place = np.interp(ours[rows], theirs[others], np.arange(others.size))
        low = np.minimum(place.astype(int), others.size - 1)
        high = np.minimum(low + 1, others.size - 1)
        found[rows, others[low]] += 1 - (place - low)
        found[rows, others[high]] += place - low
    return found


def on_reference(loss: Loss, plan: LinePlan, reference: LinePlan) -> Loss:
    """Return a scan's loss, relative to its best family member's, of masks of the reference."""
    best = min(losses_of(loss, [*family(plan)], 4))
    weights = torch.from_numpy(neighbours(reference, plan))

    def relative(masks: Tensor) -> Tensor:
        chosen = masks.detach().numpy() > 0.5
        rows = np.stack([carried(mask, reference, plan) for mask in chosen])
        # the value is that of the rows, the gradient that of the rows as far out
        towards = (masks - masks.detach()) @ weights
        return loss(torch.from_numpy(rows).to(masks) + towards) / best

    return relative
