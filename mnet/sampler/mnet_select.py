"""MNet-select: which of a set of vetted masks, and perhaps a few swaps, suits a slice.

Every mask of the set was tried on many training slices. The network predicts, from the calibration
lines, how much worse each would be than the best of them; a slice gets the one that promises most,
or the best fixed one unless another promises at least a margin more, which every stratum of scans
has for itself: where choices pay they are made, whatever they do elsewhere. Predicting losses
rather than lines keeps the structure of good masks, and whatever leaves was vetted.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self

from ..masks.family import FAMILY, VettedMasks
from ..masks.line_plan import Bool, LinePlan
from ..masks.patterns import Pattern
from ..masks.strata import channels
from .mnet import (
    N_TABLE,
    BatchedBodies,
    Body,
    LineHead,
    Stack,
    batched_linear,
    line_table,
    stacked,
)

Table = dict[str, list[Any]]  # "acceleration": [..], "loss": [[.. per mask], ..]
SCALE = 0.02  # relative loss of one unit of the network's output


class MNetSelect(nn.Module):
    """Scan-adaptive choice among vetted masks, for any matrix size, coil count and acceleration.

    `patterns` are vetted masks beside the family, as `Pattern.to_json` gives them; `table` their
    mean relative losses on training slices by acceleration, the family's first. `margins` are
    {"acceleration", "channels", "margin"}, `margin` is that of other scans. `fixed` is the best
    fixed mask at every acceleration of the table, where not that of the lowest mean; `fixed_of` are
    {"acceleration", "channels", "mask"} of strata for which another is surely better. As
    initialised, or with an infinite margin, every slice gets the best fixed mask of its stratum.
    """

    def __init__(
        self,
        patterns: list[dict[str, Any]] | None = None,
        table: Table | None = None,
        n_channels: int = 24,
        n_embedding: int = 64,
        n_members: int = 1,
        margin: float = 0.0,
        n_swaps: int = 0,
        margins: list[dict[str, Any]] | None = None,
        fixed: list[int] | None = None,
        fixed_of: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self._kept: tuple[BatchedBodies, Stack] | None = None
        n_masks = len(FAMILY) + len(patterns or [])
        # without training, members nearer to (2, 1) are preferred
        self.table = table or {
            "acceleration": [4.0],
            "loss": [
                [abs(power - 2.0) + 1.0 - cutoff for power, cutoff in FAMILY]
                + [10.0] * len(patterns or [])
            ],
        }
        self.config = {
            "patterns": patterns or [],
            "table": self.table,
            "n_channels": n_channels,
            "n_embedding": n_embedding,
            "n_members": n_members,
            "margin": margin,
            "n_swaps": n_swaps,
            "margins": margins or [],
            "fixed": fixed or [],
            "fixed_of": fixed_of or [],
        }
        if any(len(losses) != n_masks for losses in self.table["loss"]):
            raise ValueError(f"the table of losses must have {n_masks} columns, one per mask")
        self.margin, self.n_swaps = margin, n_swaps
        self.margins, self.fixed, self.fixed_of = margins or [], fixed or [], fixed_of or []
        self.bodies = nn.ModuleList(Body(n_channels, n_embedding) for _ in range(n_members))
        choose = [nn.Linear(n_embedding, n_masks) for _ in range(n_members)]
        self.value = nn.ModuleList(LineHead(N_TABLE + 2, n_embedding) for _ in range(n_members))
        for layer in choose:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.choose = nn.ModuleList(choose)
        vetted = VettedMasks(
            patterns=tuple(Pattern.from_json(content) for content in patterns or [])
        )
        # all slices of a scan share a plan, scans run side by side, and milliseconds count
        self.vetted_masks: Callable[[LinePlan], tuple[Bool, ...]] = lru_cache(maxsize=64)(vetted)

    def mean_losses(self, plan: LinePlan) -> NDArray[np.float64]:
        """Return the mean relative losses of the vetted masks on training slices, for a plan."""
        acceleration = float(plan.acquirable.sum()) / plan.n_lines
        tabled, losses = self.table["acceleration"], np.array(self.table["loss"])
        at = float(np.interp(acceleration, tabled, np.arange(len(tabled))))
        low = int(at)
        high = min(low + 1, len(tabled) - 1)
        between: NDArray[np.float64] = losses[low] + (at - low) * (losses[high] - losses[low])
        return between

    def best_fixed(self, plan: LinePlan, n_coils: int = 0) -> int:
        """Return which vetted mask is the best fixed one for a plan, and for coils if told."""
        if not self.fixed:
            return int(self.mean_losses(plan).argmin())
        acceleration = float(plan.acquirable.sum()) / plan.n_lines
        away = np.abs(np.log(np.array(self.table["acceleration"]) / acceleration))
        nearest = int(away.argmin())
        if n_coils:
            stratum = self.table["acceleration"][nearest], channels(n_coils)
            for entry in self.fixed_of:
                if (entry["acceleration"], entry["channels"]) == stratum:
                    return int(entry["mask"])
        return self.fixed[nearest]

    def population(self, plan: LinePlan) -> Bool:
        """Return the best fixed mask (n,) where nothing is known of a scan but its plan."""
        return self.vetted_masks(plan)[self.best_fixed(plan)].copy()

    def fallback(self, z: Tensor, plan: LinePlan, coils: Tensor) -> list[Bool]:
        """Return the best fixed mask (n,) of every slice's stratum."""
        masks = self.vetted_masks(plan)
        return [masks[self.best_fixed(plan, n)].copy() for n in _counts(coils, z.shape[0])]

    def margin_of(self, plan: LinePlan, n_coils: int) -> float:
        """Return the margin of a scan: that of its channels at the nearest acceleration."""
        known = [entry for entry in self.margins if entry["channels"] == channels(n_coils)]
        if not known:
            return self.margin
        acceleration = float(plan.acquirable.sum()) / plan.n_lines
        nearest = min(known, key=lambda e: abs(np.log(e["acceleration"] / acceleration)))
        return float(nearest["margin"])

    def relative_losses(self, z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
        """Predict by how much each vetted mask is worse than the best: (members, batch, masks)."""
        mean = torch.from_numpy(self.mean_losses(plan)).to(z)
        bodies = cast(list[Body], list(self.bodies))
        inputs = bodies[0].inputs(z, plan, coils)  # the same for all members
        together, choose = self._batched()
        correction = batched_linear(choose, together(*inputs))
        losses: Tensor = mean + SCALE * correction
        return losses

    def _batched(self) -> tuple[BatchedBodies, Stack]:
        """Return the members as one; kept while the weights are those of a finished training."""
        if self._kept is not None:
            return self._kept
        bodies = cast(list[Body], list(self.bodies))
        batched = BatchedBodies(bodies), stacked(self.choose)
        if not self.training and not any(each.requires_grad for each in self.parameters()):
            self._kept = batched
        return batched

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation, and forget what was made of the weights."""
        self._kept = None
        return super().train(mode)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Have autograd follow the parameters or not, and forget what was made of the weights."""
        self._kept = None
        return super().requires_grad_(requires_grad)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the weights, and forget what was made of them."""
        self._kept = None
        applied: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return applied

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Take over weights, and forget what was made of the former ones."""
        self._kept = None
        return super().load_state_dict(*arguments, **options)

    def line_values(self, z: Tensor, plan: LinePlan, coils: Tensor, mask: Bool) -> Tensor:
        """Predict what each row is worth beside the others of a mask: (members, batch, n)."""
        table = torch.from_numpy(swap_table(plan, mask)).to(z).expand(z.shape[0], -1, -1)
        values = [
            value(table, body(z, plan, coils))
            for body, value in zip(self.bodies, self.value, strict=True)
        ]
        return torch.stack(values)

    def choice(self, z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
        """Return which vetted mask every slice gets: (batch,) indices."""
        return _chosen(*self.promises(z, plan, coils))

    def promises(
        self, z: Tensor, plan: LinePlan, coils: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return which mask promises most, how much less than the fixed one, margin, and fixed one.

        All (batch,); losses are relative ones, the fixed mask is the best one of the stratum.
        """
        predicted = self.relative_losses(z, plan, coils).mean(0)
        if not torch.isfinite(predicted).all():
            raise ValueError("MNet-select predicts losses that are not numbers: check the input")
        counts = _counts(coils, z.shape[0])
        best = predicted.argmin(1)
        fixed = best.new_tensor([self.best_fixed(plan, n) for n in counts])
        gain = (predicted.gather(1, fixed[:, None]) - predicted.gather(1, best[:, None]))[:, 0]
        return best, gain, gain.new_tensor([self.margin_of(plan, n) for n in counts]), fixed

    def forward(self, z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
        """Return logits (batch, n), 1 on chosen rows and -1 elsewhere, from features."""
        chosen = [mask for mask, _ in self.decide(z, plan, coils)]
        return 2.0 * torch.from_numpy(np.stack(chosen)).to(z) - 1.0

    def decide(self, z: Tensor, plan: LinePlan, coils: Tensor) -> list[tuple[Bool, str]]:
        """Return the mask (n,) of every slice, and which one it is, its promise and the margin."""
        masks = self.vetted_masks(plan)
        coils = coils.expand(z.shape[0], -1)
        promises = self.promises(z, plan, coils)
        chosen = [masks[i] for i in _chosen(*promises).tolist()]
        if self.n_swaps:
            chosen = [
                self._swapped(z[i : i + 1], plan, coils[i : i + 1], mask)
                for i, mask in enumerate(chosen)
            ]
        told = zip(*(each.tolist() for each in promises), strict=True)
        return [(mask.copy(), _told(*each)) for mask, each in zip(chosen, told, strict=True)]

    def _swapped(self, z: Tensor, plan: LinePlan, coils: Tensor, mask: Bool) -> Bool:
        values = self.line_values(z, plan, coils, mask).mean(0)[0].detach().cpu().numpy()
        return swap(mask, plan, values, self.n_swaps)


def _chosen(best: Tensor, gain: Tensor, margins: Tensor, fixed: Tensor) -> Tensor:
    return torch.where(gain > margins, best, fixed)


def _counts(coils: Tensor, n: int) -> list[int]:
    """Return how many coils each of `n` slices has, from coil features (1 or n, 19)."""
    counts: list[int] = coils[:, 0].expand(n).round().int().tolist()
    return counts


def _told(best: int, gain: float, margin: float, fixed: int) -> str:
    promise = f"mask {best} promises {100 * gain:.1f} % less loss"
    if gain > margin:
        return f"{promise} than the best fixed mask, {fixed}; margin {100 * margin:.3g} %"
    if margin >= 1:  # training found none
        return f"best fixed mask, {fixed}: for such scans no choice was surely better"
    if best == fixed:
        return f"best fixed mask, {fixed}, which promises most"
    return f"best fixed mask, {fixed}: {promise}, under the margin of {100 * margin:.3g} %"


def swap_table(plan: LinePlan, mask: Bool) -> NDArray[np.float32]:
    """Describe every row beside the others of a mask: (12, n)."""
    n = mask.size
    mirrored = mask[np.clip(2 * plan.center - np.arange(n), 0, n - 1)]
    around = np.stack([mask * 2.0 - 1.0, mirrored * 2.0 - 1.0]).astype(np.float32)
    return np.concatenate([around, line_table(plan)])


def swap(mask: Bool, plan: LinePlan, values: NDArray[np.floating[Any]], n_swaps: int) -> Bool:
    """Replace the least valued movable lines by the most valued free rows, while that gains."""
    taken = np.flatnonzero(mask & plan.movable)
    free = np.flatnonzero(~mask & plan.movable)
    taken = taken[np.argsort(values[taken], kind="stable")][:n_swaps]
    free = free[np.argsort(-values[free], kind="stable")][:n_swaps]
    swapped = mask.copy()
    for out, into in zip(taken, free, strict=False):
        if values[into] > values[out]:
            swapped[out], swapped[into] = False, True
    return swapped
