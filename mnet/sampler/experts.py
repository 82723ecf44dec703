"""A mixture of experts: fixed masks, each for a kind of scan, behind a gate that one can read.

The experts are vetted masks: the family's, and population masks of strata. The gate is a small
decision tree on what the pre-scan tells (mnet.sampler.prescan), one for every acceleration that
labels were made at. Every node knows the safest fixed mask of its scans; a leaf whose expert is not
surely better than that one gives that one. There is no network: the trees stand in the card.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..masks.family import FAMILY, NEAR_BEST, VettedMasks
from ..masks.line_plan import Bool, LinePlan
from ..masks.patterns import Pattern
from .prescan import NAMES, WORDS, prescan_numbers

Node = dict[str, Any]  # expert, fallback; of a branch also feature, threshold, below, above


class MNetExperts(nn.Module):
    """Scan-adaptive choice among vetted masks by a decision tree, for any matrix and coil count.

    `patterns` are vetted masks beside the family, each {"name", "pattern"} as `Pattern.to_json`
    gives it; `trees` are {"acceleration", "tree"}. Masks are numbered, the family's first. Without
    trees every slice gets one member of the family.
    """

    def __init__(
        self,
        patterns: list[dict[str, Any]] | None = None,
        trees: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.trees = trees or [
            {
                "acceleration": 4.0,
                "tree": {"expert": NEAR_BEST, "fallback": NEAR_BEST, "n_scans": 0},
            }
        ]
        self.config = {"patterns": patterns or [], "trees": self.trees}
        vetted = VettedMasks(
            patterns=tuple(Pattern.from_json(entry["pattern"]) for entry in patterns or [])
        )
        self.names = [f"power {power:g}, cutoff {cutoff:g}" for power, cutoff in FAMILY]
        self.names += [str(entry["name"]) for entry in patterns or []]
        for entry in self.trees:
            _check(entry["tree"], len(self.names))
        # all slices of a scan share a plan, scans run side by side, and milliseconds count
        self.vetted_masks: Callable[[LinePlan], tuple[Bool, ...]] = lru_cache(maxsize=64)(vetted)

    def tree(self, plan: LinePlan) -> Node:
        """Return the tree of the acceleration nearest to a plan's."""
        acceleration = float(plan.acquirable.sum()) / plan.n_lines
        entry = min(self.trees, key=lambda e: abs(np.log(e["acceleration"] / acceleration)))
        node: Node = entry["tree"]
        return node

    def population(self, plan: LinePlan) -> Bool:
        """Return the safest fixed mask (n,) where nothing is known of a scan but its plan."""
        return self.vetted_masks(plan)[self.tree(plan)["fallback"]].copy()

    def leaves(self, z: Tensor, plan: LinePlan, coils: Tensor) -> list[Node]:
        """Return the leaf that every slice ends in; ValueError for features without numbers."""
        return [path[-1] for path, _ in self._paths(z, plan, coils)]

    def _paths(
        self, z: Tensor, plan: LinePlan, coils: Tensor
    ) -> Iterator[tuple[list[Node], list[float]]]:
        """Give the nodes that every slice comes through, and its numbers."""
        numbers = prescan_numbers(z, plan, coils.expand(z.shape[0], -1))
        if not torch.isfinite(numbers).all():
            raise ValueError("what the pre-scan tells is not finite: check the input")
        for row in numbers.tolist():
            yield path_of(self.tree(plan), row), row

    def choice(self, z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
        """Return which vetted mask every slice gets: (batch,) indices."""
        return torch.tensor([leaf["expert"] for leaf in self.leaves(z, plan, coils)])

    def fallback(self, z: Tensor, plan: LinePlan, coils: Tensor) -> list[Bool]:
        """Return the safest fixed mask (n,) of every slice's stratum."""
        masks = self.vetted_masks(plan)
        return [masks[leaf["fallback"]].copy() for leaf in self.leaves(z, plan, coils)]

    def forward(self, z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
        """Return logits (batch, n), 1 on chosen rows and -1 elsewhere, from features."""
        chosen = [mask for mask, _ in self.decide(z, plan, coils)]
        return 2.0 * torch.from_numpy(np.stack(chosen)).to(z) - 1.0

    def decide(self, z: Tensor, plan: LinePlan, coils: Tensor) -> list[tuple[Bool, str]]:
        """Return the mask (n,) of every slice and why: "expert 3, few coils, low noise"."""
        masks = self.vetted_masks(plan)
        return [
            (masks[path[-1]["expert"]].copy(), _told(path, row))
            for path, row in self._paths(z, plan, coils)
        ]


def path_of(tree: Node, numbers: list[float]) -> list[Node]:
    """Return the nodes that a scan with `numbers` (of NAMES) comes through, the leaf last."""
    path = [tree]
    while "feature" in path[-1]:
        node = path[-1]
        path.append(node["below" if _is_below(node, numbers) else "above"])
    return path


def nodes(tree: Node) -> Iterator[Node]:
    """Give every node of a tree, the root first."""
    yield tree
    for side in ("below", "above"):
        if side in tree:
            yield from nodes(tree[side])


def _is_below(node: Node, numbers: list[float]) -> bool:
    return numbers[NAMES.index(node["feature"])] < float(node["threshold"])


def _told(path: list[Node], numbers: list[float]) -> str:
    leaf = path[-1]
    kind = "fallback" if leaf["expert"] == leaf["fallback"] else "expert"
    # a feature that is asked twice is told once, as the last threshold has it
    words = {
        node["feature"]: WORDS[node["feature"]][0 if _is_below(node, numbers) else 1]
        for node in path[:-1]
    }
    return ", ".join([f"{kind} {leaf['expert']}", *words.values()])


def _check(tree: Node, n_masks: int) -> None:
    for node in nodes(tree):
        if not all(0 <= node[key] < n_masks for key in ("expert", "fallback")):
            raise ValueError(
                f"a tree names masks {node['expert']} and {node['fallback']}, expected 0 to "
                f"{n_masks - 1}"
            )
        if "feature" in node and node["feature"] not in NAMES:
            raise ValueError(f"a tree asks for {node['feature']!r}, expected one of {NAMES}")
