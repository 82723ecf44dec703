"""Does a sampler adapt, or has it collapsed to one mask? What its masks and logits tell.

A sampler that answers every scan of a plan with the same logits reaches no BCE below the entropy of
the mean label of that plan, and its masks do not differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnet.masks import Bool, Lines

N_LEAST = 8  # labels of a plan, for their mean to say something


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """What a sampler chose for a scan, and the ICD mask where there is one."""

    lines: Lines
    logits: Tensor  # (ky,)
    mask: Bool  # (ky,)
    label: Bool | None  # (ky,)


def label_loss(logits: Tensor, label: Bool, lines: Lines, *, over_all: bool = False) -> Tensor:
    """Return the mean binary cross-entropy (Eq. 4) of logits (ky,), over movable or all rows."""
    target = torch.from_numpy(label).to(logits)
    if over_all:
        return functional.binary_cross_entropy_with_logits(logits, target)
    movable = torch.from_numpy(lines.movable).to(logits.device)
    return functional.binary_cross_entropy_with_logits(logits[movable], target[movable])


def population_entropy(labels: NDArray[np.bool_], lines: Lines) -> float:
    """Return the mean entropy in nats of the movable rows, from labels (scans, ky) of one plan.

    It is the lowest BCE that one vector of logits for all of these scans can have.
    """
    p = labels[:, lines.movable].mean(0)
    inner = p[(p > 0) & (p < 1)]
    entropy = -(inner * np.log(inner) + (1 - inner) * np.log(1 - inner)).sum()
    return float(entropy / p.size)


def pairwise_hamming(masks: NDArray[np.bool_]) -> float:
    """Return the mean number of rows in which two of the masks (scans, ky) differ."""
    n, taken = len(masks), masks.sum(0)
    return float((2 * taken * (n - taken)).sum() / (n * (n - 1)))


def collapse_figures(chosen: Sequence[Chosen]) -> dict[str, float]:
    """Return `bce` of all labels, and of the plans that several scans share.

    `hamming` and `hamming_icd`: mean distance of predicted and of ICD masks of equal plan;
    `bce_shared` beside `entropy_shared`: what a constant answer would reach, over the same scans.
    Figures for which there are no scans are left out.
    """
    plans: dict[tuple[bytes, bytes, int], list[Chosen]] = {}
    for c in chosen:
        plan = c.lines.acquirable.tobytes(), c.lines.calibration.tobytes(), c.lines.n_lines
        plans.setdefault(plan, []).append(c)
    values: dict[str, list[tuple[float, int]]] = {}  # figure -> (value, how many it is a mean of)

    def add(name: str, value: float, weight: int) -> None:
        values.setdefault(name, []).append((value, weight))

    for group in plans.values():
        lines, n = group[0].lines, len(group)
        labels = [c.label for c in group if c.label is not None]
        losses = [float(label_loss(c.logits, c.label, lines)) for c in group if c.label is not None]
        if n > 1:
            add("hamming", pairwise_hamming(np.stack([c.mask for c in group])), n * (n - 1))
        if labels:
            add("bce", float(np.mean(losses)), len(labels))
        if len(labels) > 1:
            add("hamming_icd", pairwise_hamming(np.stack(labels)), len(labels) * (len(labels) - 1))
        if len(labels) >= N_LEAST:
            add("bce_shared", float(np.mean(losses)), len(labels))
            add("entropy_shared", population_entropy(np.stack(labels), lines), len(labels))
    return {
        name: sum(v * w for v, w in pairs) / sum(w for _, w in pairs)
        for name, pairs in values.items()
    }
