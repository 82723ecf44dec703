"""How sure MNet-select must be: its last choices, settled on scans that it did not learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from mnet.sampler.mnet_select import MNetSelect, swap
from training.data.corpus import load
from training.fit.select_examples import Example
from training.masks.labels import scan_loss


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unseen:
    """Scans that a model did not learn from, and what it predicts for them."""

    examples: list[Example]
    predicted: list[Tensor]  # (masks,) of each
    fixed: list[int]  # the best fixed mask of each

    @classmethod
    @torch.no_grad()
    def by(cls, model: MNetSelect, examples: list[Example]) -> Self:
        """Let a model predict."""
        return cls(
            examples=examples,
            predicted=[model.relative_losses(e.z, e.plan, e.coils).mean(0)[0] for e in examples],
            fixed=[int(model.mean_losses(e.plan).argmin()) for e in examples],
        )

    def choices(self, margin: float) -> list[int]:
        """Return the masks that scans get with a margin."""
        return [
            int(p.argmin()) if float(p[i] - p.min()) > margin else i
            for p, i in zip(self.predicted, self.fixed, strict=True)
        ]

    def gain(self, choices: Sequence[int]) -> dict[str, float]:
        """Compare chosen masks with the best fixed ones."""
        return _gain(self.losses(choices), self.losses(self.fixed))

    def losses(self, choices: Sequence[int]) -> NDArray[np.float64]:
        """Return the losses (scans,) of chosen masks."""
        return np.array([float(e.losses[i]) for e, i in zip(self.examples, choices, strict=True)])


def settle(
    model: MNetSelect, unseen: Mapping[str, Unseen], margins: Sequence[float]
) -> dict[str, Any]:
    """Set the margin to the surest gain of the cohort that gains least: one standard error counts.

    No gain is certain without any choice, so that with an infinite margin all stay as they are.
    """
    figures: dict[str, Any] = {}
    worst: dict[float, float] = {}
    for margin in (*margins, float("inf")):
        gains = {cohort: scans.gain(scans.choices(margin)) for cohort, scans in unseen.items()}
        figures[f"margin {margin:g}"] = gains
        worst[margin] = max(_surely(gain) for gain in gains.values())
    model.margin = min(worst, key=lambda margin: worst[margin])
    model.config["margin"] = min(model.margin, 1e9)
    return figures | {
        "best vetted": {
            cohort: scans.gain([int(e.losses.argmin()) for e in scans.examples])
            for cohort, scans in unseen.items()
        },
        "margin": model.config["margin"],
        "n_scans": {cohort: len(scans.examples) for cohort, scans in unseen.items()},
    }


@torch.no_grad()
def settle_swaps(
    model: MNetSelect, scans: Unseen, swaps: Sequence[int], modl: nn.Module, n_rows: int
) -> dict[str, Any]:
    """Set how many swaps follow the choice to the surest gain."""
    base = scans.losses(scans.fixed)
    figures: dict[str, Any] = {"best_single_nrmse": round(float(base.mean()), 4)}
    choices = scans.choices(model.margin)
    sure = _surely(scans.gain(choices))
    best_swaps = 0
    swapped: dict[int, list[float]] = {n: [] for n in swaps if n}
    pairs = zip(scans.examples, choices, strict=True) if swapped else ()
    for example, choice in tqdm(pairs, desc="swaps"):
        loss = scan_loss(load(example.path), modl, n_rows)
        mask = model.vetted_masks(example.plan)[choice]
        values = model.line_values(example.z, example.plan, example.coils, mask).mean(0)[0]
        for n in swapped:
            moved = swap(mask, example.plan, values.numpy(), n)
            swapped[n].append(float(loss(torch.from_numpy(moved).float()[None])[0]))
    for n, losses in swapped.items():
        figures[f"{n} swaps"] = _gain(np.array(losses), base)
        if _surely(figures[f"{n} swaps"]) < sure:
            sure, best_swaps = _surely(figures[f"{n} swaps"]), n
    model.n_swaps = model.config["n_swaps"] = best_swaps
    return figures | {"n_swaps": best_swaps}


def _gain(losses: NDArray[np.float64], base: NDArray[np.float64]) -> dict[str, float]:
    percent = 100 * (losses / base - 1)
    error = percent.std() / np.sqrt(percent.size)
    return {"percent": round(float(percent.mean()), 3), "standard_error": round(float(error), 3)}


def _surely(figure: dict[str, float]) -> float:
    return figure["percent"] + figure["standard_error"]
