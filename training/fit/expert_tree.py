"""Small decision trees over experts, learned from what every vetted mask loses on every scan.

A node's expert is the mask with the lowest mean loss on its scans, its fallback the safest one,
which has the lowest ninth decile. A split is the one feature and threshold that lower the mean loss
most. Two choices are made on scans that were not learned from: whether a question is asked at all,
and whether a leaf's expert may leave its fallback. Both must be an improvement at the upper end of
a one-sided interval (training.fit.bound), in the stratum where they act: a gain there is not lost
in the mean over all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnet.sampler.experts import Node, path_of
from mnet.sampler.prescan import NAMES
from training.fit.bound import CONFIDENCE, upper_bound

Float = NDArray[np.float64]
SAFE = 0.9  # quantile of a mask's losses that makes it safe or not
WORST = 0.005  # mean change of validation scans above which no expert is taken


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scans:
    """Labelled scans of one acceleration."""

    numbers: Float  # (scans, NAMES)
    losses: Float  # (scans, masks), relative to the best vetted mask of each scan
    groups: NDArray[np.str_]  # (scans,) what is left out together: cohorts, or blocks of one

    def __len__(self) -> int:
        return len(self.losses)

    def only(self, which: NDArray[Any]) -> "Scans":
        """Return some of the scans."""
        return Scans(
            numbers=self.numbers[which], losses=self.losses[which], groups=self.groups[which]
        )


def grow(scans: Scans, depth: int, min_leaf: int) -> Node:
    """Grow a tree of at most `depth` questions, with at least `min_leaf` scans in every leaf."""
    node: Node = {
        "expert": int(scans.losses.mean(0).argmin()),
        "fallback": int(np.quantile(scans.losses, SAFE, axis=0).argmin()),
        "n_scans": len(scans),
    }
    split = _best_split(scans, min_leaf) if depth > 0 else None
    if split is None:
        return node
    feature, threshold = split
    below = scans.numbers[:, feature] < threshold
    return node | {
        "feature": NAMES[feature],
        "threshold": threshold,
        "below": grow(scans.only(below), depth - 1, min_leaf),
        "above": grow(scans.only(~below), depth - 1, min_leaf),
    }


def _best_split(scans: Scans, min_leaf: int) -> tuple[int, float] | None:
    """Return the feature and threshold after which the best masks lose least, if any do."""
    n = len(scans)
    best: tuple[float, int, float] | None = None
    least = scans.losses.sum(0).min() * (1 - 1e-9) - 1e-12
    for feature in range(len(NAMES)):
        order = np.argsort(scans.numbers[:, feature], kind="stable")
        values = scans.numbers[order, feature]
        sums = scans.losses[order].cumsum(0)
        sizes = np.arange(min_leaf, n - min_leaf + 1)
        sizes = sizes[values[sizes - 1] < values[np.minimum(sizes, n - 1)]]
        if not sizes.size:
            continue
        left = sums[sizes - 1]
        costs = left.min(1) + (sums[-1] - left).min(1)
        i = int(costs.argmin())
        if costs[i] < (least if best is None else best[0]):
            best = costs[i], feature, _between(values[sizes[i] - 1], values[sizes[i]])
    return None if best is None else best[1:]


def _between(low: float, high: float) -> float:
    """Return a short number above `low` and not above `high`."""
    middle = (low + high) / 2
    for digits in range(2, 8):
        short = float(f"{middle:.{digits}g}")
        if low < short <= high:
            return short
    return float(high)


def chosen_losses(tree: Node, scans: Scans) -> Float:
    """Return what the experts of a tree lose, (scans,)."""
    experts = np.array(
        [path_of(tree, row)[-1]["expert"] for row in scans.numbers.tolist()], dtype=int
    )
    losses: Float = scans.losses[np.arange(len(scans)), experts]
    return losses


def held_out_losses(scans: Scans, depth: int, min_leaf: int) -> Float:
    """Return what trees lose on the groups of scans that each was grown without, (scans,)."""
    losses = np.empty(len(scans))
    for group in np.unique(scans.groups):
        out = scans.groups == group
        losses[out] = chosen_losses(grow(scans.only(~out), depth, min_leaf), scans.only(out))
    return losses


def learn(
    scans: Scans,
    validation: Sequence[Scans],
    *,
    depth: int,
    min_leaf: int,
    confidence: float = CONFIDENCE,
) -> Node:
    """Return a tree of at most `depth` questions, each of which surely pays where it is asked."""
    split = _sure_split(scans, validation, depth, min_leaf, confidence)
    node = grow(scans, 0, min_leaf)
    if split is None:
        return node | _leaf(node, scans, validation, confidence)
    feature, threshold = split
    sides = {
        side: learn(
            *_halves(scans, validation, split, side),
            depth=depth - 1,
            min_leaf=min_leaf,
            confidence=confidence,
        )
        for side in ("below", "above")
    }
    return node | {"feature": NAMES[feature], "threshold": threshold, **sides}


def _sure_split(
    scans: Scans, validation: Sequence[Scans], depth: int, min_leaf: int, confidence: float
) -> tuple[int, float] | None:
    """Return the question that surely pays, by itself or with one more behind it."""
    if np.unique(scans.groups).size < 2:
        return None  # none can be left out
    tries = range(1, min(depth, 2) + 1)
    known = _unseen(scans, validation, 0, min_leaf)
    for ahead in tries:
        tree = grow(scans, ahead, min_leaf)
        found = _unseen(scans, validation, ahead, min_leaf)
        changes = [_change(new, old) for new, old in zip(found, known, strict=True)]
        each = 1 - (1 - confidence) / len(tries)  # of several tries one passes by chance
        if "feature" in tree and upper_bound(changes, each)[1] < 0:
            return NAMES.index(tree["feature"]), tree["threshold"]
    return None


def _halves(
    scans: Scans, validation: Sequence[Scans], split: tuple[int, float], side: str
) -> tuple[Scans, list[Scans]]:
    feature, threshold = split
    halves = [
        part.only((part.numbers[:, feature] < threshold) == (side == "below"))
        for part in (scans, *validation)
    ]
    return halves[0], halves[1:]


def _unseen(scans: Scans, validation: Sequence[Scans], depth: int, min_leaf: int) -> list[Float]:
    """Return held-out losses of every group of scans, and those of every validation cohort."""
    losses = held_out_losses(scans, depth, min_leaf)
    tree = grow(scans, depth, min_leaf)
    groups = [losses[scans.groups == group] for group in np.unique(scans.groups)]
    return [*groups, *(chosen_losses(tree, others) for others in validation)]


def _change(new: Float, old: Float) -> Float:
    """Return by what share errors change, from losses relative to the best mask."""
    change: Float = (1 + new) / (1 + old) - 1
    return change


def _leaf(
    node: Node, scans: Scans, validation: Sequence[Scans], confidence: float
) -> dict[str, Any]:
    """Return what a leaf's expert changes against its fallback on scans that did not choose it."""
    fallback = node["fallback"]
    changes = []
    for group in np.unique(scans.groups):
        out = scans.groups == group
        rest = scans.losses[~out] if not out.all() else scans.losses
        expert = rest.mean(0).argmin()
        changes.append(_change(scans.losses[out, expert], scans.losses[out, fallback]))
    unseen = [_change(v.losses[:, node["expert"]], v.losses[:, fallback]) for v in validation]
    mean, bound = upper_bound([*changes, *unseen], confidence)
    others = np.concatenate(unseen) if unseen else np.zeros(0)
    sure = bound < 0 and (others.size == 0 or others.mean() <= WORST)
    return {
        "expert": node["expert"] if sure else fallback,
        "best": node["expert"],
        "change_percent": round(100 * mean, 2),
        "at_worst_percent": round(100 * bound, 2) if np.isfinite(bound) else None,
    }
