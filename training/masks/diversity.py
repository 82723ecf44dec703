"""Does a sampler adapt, or has it collapsed to one mask? What its masks and logits tell.

A sampler that answers every scan of a plan with the same logits reaches no BCE below the entropy of
the mean label of that plan, and its masks do not differ.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnet.masks.line_plan import Bool, LinePlan

Plan = tuple[bytes, bytes, int]

N_LEAST = 8  # labels of a plan, for their mean to say something


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """What a sampler chose for a scan, and the ICD mask where there is one."""

    plan: LinePlan
    logits: Tensor  # (ky,)
    mask: Bool  # (ky,)
    label: Bool | None  # (ky,)


def label_loss(logits: Tensor, label: Bool, plan: LinePlan, *, over_all: bool = False) -> Tensor:
    """Return the mean binary cross-entropy (Eq. 4) of logits (ky,), over movable or all rows."""
    target = torch.from_numpy(label).to(logits)
    if over_all:
        return functional.binary_cross_entropy_with_logits(logits, target)
    movable = torch.from_numpy(plan.movable).to(logits.device)
    return functional.binary_cross_entropy_with_logits(logits[movable], target[movable])


def population_entropy(labels: NDArray[np.bool_], plan: LinePlan) -> float:
    """Return the mean entropy in nats of the movable rows, from labels (scans, ky) of one plan.

    It is the lowest BCE that one vector of logits for all of these scans can have.
    """
    p = labels[:, plan.movable].mean(0)
    inner = p[(p > 0) & (p < 1)]
    entropy = -(inner * np.log(inner) + (1 - inner) * np.log(1 - inner)).sum()
    return float(entropy / p.size)


def plan_key(plan: LinePlan) -> Plan:
    """Return what is equal of equal plans."""
    return plan.acquirable.tobytes(), plan.calibration.tobytes(), plan.n_lines


def distances(masks: Iterable[tuple[Bool, LinePlan]]) -> dict[str, Any] | None:
    """Return how far masks of equal plan are apart; None where no two scans share a plan.

    `hamming` is the mean number of rows in which two of them differ: a line that moved counts
    twice. `share` is that of the most possible: 1 where no movable line is shared.
    """
    groups: dict[Plan, list[tuple[Bool, LinePlan]]] = {}
    for mask, plan in masks:
        groups.setdefault(plan_key(plan), []).append((mask, plan))
    found, most = [], []
    for group in groups.values():
        for (a, plan), (b, _) in combinations(group, 2):
            found.append(int((a != b).sum()))
            most.append(2 * min(plan.n_movable, int(plan.movable.sum()) - plan.n_movable))
    if not found:
        return None
    return {
        "hamming": float(np.mean(found)),
        "share": float(np.sum(found) / max(np.sum(most), 1)),
        "n_pairs": len(found),
        "different": float(np.mean(np.array(found) > 0)),
    }


def diversity_figures(chosen: Sequence[Chosen]) -> dict[str, float]:
    """Return `bce` of all labels, and of the plans that several scans share.

    `hamming` and `hamming_icd`: mean distance of predicted and of ICD masks of equal plan;
    `bce_shared` beside `entropy_shared`: what a constant answer would reach, over the same scans.
    Figures for which there are no scans are left out.
    """
    plans: dict[Plan, list[Chosen]] = {}
    for c in chosen:
        plans.setdefault(plan_key(c.plan), []).append(c)
    values: dict[str, list[tuple[float, int]]] = {}  # figure -> (value, how many it is a mean of)

    def add(name: str, value: float, weight: int) -> None:
        values.setdefault(name, []).append((value, weight))

    for group in plans.values():
        plan = group[0].plan
        labels = [c.label for c in group if c.label is not None]
        losses = [float(label_loss(c.logits, c.label, plan)) for c in group if c.label is not None]
        if labels:
            add("bce", float(np.mean(losses)), len(labels))
        if len(labels) >= N_LEAST:
            add("bce_shared", float(np.mean(losses)), len(labels))
            add("entropy_shared", population_entropy(np.stack(labels), plan), len(labels))
    figures = {
        name: sum(v * w for v, w in pairs) / sum(w for _, w in pairs)
        for name, pairs in values.items()
    }
    for name, masks in (
        ("hamming", [(c.mask, c.plan) for c in chosen]),
        ("hamming_icd", [(c.label, c.plan) for c in chosen if c.label is not None]),
    ):
        if apart := distances(masks):
            figures[name] = apart["hamming"]
    return figures
