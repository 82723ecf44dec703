"""Iterative coordinate descent on a line mask, with a gradient shortlist.

A pass takes every movable line in turn, removes it, and puts back the one line that lowers the loss
most, or itself. Exact ICD tries every free row; here one gradient of the loss with respect to the
mask, taken with the line removed, ranks the rows and only the best `shortlist` are reconstructed.
A gradient is counted as three evaluations. After Gautam et al., arXiv:2509.16846, and SUNO.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnet.masks import Bool, Lines

Loss = Callable[[Tensor], Tensor]  # masks (batch, ky) float -> losses (batch,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Label:
    """What the search found."""

    mask: Bool
    loss: float
    start_loss: float
    n_evaluations: int


def descend(
    loss: Loss,
    lines: Lines,
    start: Bool,
    *,
    shortlist: int = 8,
    n_passes: int = 1,
    max_moves: int | None = None,
    rng: np.random.Generator | None = None,
) -> Label:
    """Improve a mask; never worse than its start, and always of the same budget.

    `max_moves` tries only that many randomly chosen lines per pass.
    """
    mask = start.copy()
    best = start_loss = float(loss(_float(mask))[0])
    n_evaluations = 1
    rng = rng or np.random.default_rng(0)
    for _ in range(n_passes):
        movable = np.flatnonzero(mask & lines.movable)
        if max_moves is not None and movable.size > max_moves:
            movable = np.sort(rng.choice(movable, max_moves, replace=False))
        for line in movable:
            mask[line] = False
            gain = -line_gradient(loss, mask)
            n_evaluations += 3
            free = np.flatnonzero(~mask & lines.movable)
            free = free[free != line]
            targets = free[np.argsort(-gain[free])[:shortlist]]
            candidates = np.repeat(mask[None], targets.size, axis=0)
            candidates[np.arange(targets.size), targets] = True
            with torch.no_grad():
                losses = loss(torch.from_numpy(candidates).float()).numpy()
            n_evaluations += targets.size
            winner = int(losses.argmin())
            if losses[winner] < best:
                best, mask = float(losses[winner]), candidates[winner]
            else:
                mask[line] = True
    return Label(mask=mask, loss=best, start_loss=start_loss, n_evaluations=n_evaluations)


def line_gradient(loss: Loss, mask: Bool) -> NDArray[np.float64]:
    """Return d loss / d mask (ky,) at a mask."""
    variable = _float(mask).requires_grad_()
    loss(variable).sum().backward()
    gradient = variable.grad
    if gradient is None:
        raise ValueError("the loss does not depend on the mask")
    return gradient[0].double().numpy()


def _float(mask: Bool) -> Tensor:
    return torch.from_numpy(mask).float()[None]
