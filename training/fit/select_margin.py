"""How sure MNet-select must be: its last choices, settled on scans that it did not learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from mnet.masks.strata import Stratum, channels
from mnet.sampler.mnet_select import MNetSelect, swap
from training.data.corpus import load
from training.fit.bound import upper_bound
from training.fit.select_examples import Example, nominal, relative
from training.masks.labels import scan_loss

N_LEAST = 8  # scans of a stratum that has a margin of its own


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
            fixed=[model.best_fixed(e.plan, n_coils(e)) for e in examples],
        )

    @property
    def strata(self) -> list[Stratum]:
        """The stratum of every scan."""
        return [stratum_of(e) for e in self.examples]

    def of(self, stratum: Stratum) -> Self:
        """Return the scans of a stratum."""
        kept = [i for i, s in enumerate(self.strata) if s == stratum]
        return type(self)(
            examples=[self.examples[i] for i in kept],
            predicted=[self.predicted[i] for i in kept],
            fixed=[self.fixed[i] for i in kept],
        )

    def changes(self, choices: Sequence[int]) -> NDArray[np.float64]:
        """Return by what share the errors (scans,) of chosen masks differ from the fixed ones'."""
        change: NDArray[np.float64] = self.losses(choices) / self.losses(self.fixed) - 1
        return change

    def choices(self, margin: float) -> list[int]:
        """Return the masks that scans get with a margin."""
        return [
            int(p.argmin()) if float(p[i] - p.min()) > margin else i
            for p, i in zip(self.predicted, self.fixed, strict=True)
        ]

    def deployed(self, model: MNetSelect) -> list[int]:
        """Return the masks that scans get with the margins of a model."""
        return [
            int(p.argmin()) if float(p[i] - p.min()) > model.margin_of(e.plan, n_coils(e)) else i
            for e, p, i in zip(self.examples, self.predicted, self.fixed, strict=True)
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
    """Set the margin of every stratum of scans to the surest gain there, and one for all others.

    A gain counts at the upper end of a one-sided interval (training.fit.bound). No gain is certain
    without any choice, so that with an infinite margin a stratum stays as it is; but what choices
    do in one stratum is no reason to be silent in another.
    """
    margins = (*margins, float("inf"))
    figures: dict[str, Any] = {
        f"margin {margin:g}": {
            cohort: scans.gain(scans.choices(margin)) for cohort, scans in unseen.items()
        }
        for margin in margins
    }
    model.margin, _ = _surest([*unseen.values()], margins)
    model.config["margin"] = min(model.margin, 1e9)
    model.margins, strata = [], {}
    for stratum in sorted({s for scans in unseen.values() for s in scans.strata}):
        parts = [scans.of(stratum) for scans in unseen.values()]
        if sum(len(part.examples) for part in parts) < N_LEAST:
            continue
        margin, figure = _surest(parts, margins)
        entry = {"acceleration": stratum.acceleration, "channels": stratum.channels}
        model.margins.append(entry | {"margin": min(margin, 1e9)})
        strata[stratum.name] = figure
    model.config["margins"] = model.margins
    return figures | {
        "best vetted": {
            cohort: scans.gain([int(e.losses.argmin()) for e in scans.examples])
            for cohort, scans in unseen.items()
        },
        "margin": model.config["margin"],
        "strata": strata,
        "n_scans": {cohort: len(scans.examples) for cohort, scans in unseen.items()},
    }


def settle_fixed(model: MNetSelect, cohorts: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """Set the best fixed masks to those of the lowest mean over cohorts, which count alike.

    So a few measured scans weigh as much as hundreds of simulated ones. A stratum, of which a
    cohort may have a single scan, has the best one of its scans where those of all cohorts but one
    surely gain on that one, in turn; returns what they gain.
    """
    model.fixed, model.fixed_of, figures = [], [], {}
    for acceleration in model.table["acceleration"]:
        groups = [
            [e for e in examples if nominal(e.plan) == acceleration]
            for examples in cohorts.values()
        ]
        means = [relative(group).mean(0).numpy() for group in groups if group]
        fixed = int(np.mean(means, axis=0).argmin())
        model.fixed.append(fixed)
        for kind in sorted({stratum_of(e).channels for group in groups for e in group}):
            parts = [[e for e in group if stratum_of(e).channels == kind] for group in groups]
            parts = [part for part in parts if part]
            if len(parts) < 2 or sum(map(len, parts)) < N_LEAST:
                continue
            best, (mean, bound) = _best_of(parts), upper_bound(_changes_unseen(parts, fixed))
            if bound < 0:
                entry = {"acceleration": acceleration, "channels": kind, "mask": best}
                model.fixed_of.append(entry)
            figures[Stratum(acceleration=acceleration, channels=kind).name] = {
                "mask": best,
                "percent": round(100 * mean, 3),
                "at_worst": round(100 * bound, 3),
                "n_scans": sum(map(len, parts)),
            }
    model.config |= {"fixed": model.fixed, "fixed_of": model.fixed_of}
    return figures


def _best_of(groups: Sequence[Sequence[Example]]) -> int:
    return int(relative([e for group in groups for e in group]).mean(0).argmin())


def _changes_unseen(parts: Sequence[Sequence[Example]], fixed: int) -> list[NDArray[np.float64]]:
    """Return what the best mask of all other cohorts changes in each, against the fixed one."""
    changes = []
    for i, part in enumerate(parts):
        losses = relative(part).numpy() + 1
        other = _best_of([*parts[:i], *parts[i + 1 :]])
        changes.append(losses[:, other] / losses[:, fixed] - 1)
    return changes


def n_coils(example: Example) -> int:
    """Return how many coils a scan has."""
    return round(float(example.coils[0, 0]))


def stratum_of(example: Example) -> Stratum:
    """Return the stratum of a scan."""
    return Stratum(acceleration=nominal(example.plan), channels=channels(n_coils(example)))


def _surest(parts: Sequence[Unseen], margins: Sequence[float]) -> tuple[float, dict[str, Any]]:
    """Return the margin whose gain is surest over some cohorts, and what it gains."""
    bounds = {
        margin: upper_bound([part.changes(part.choices(margin)) for part in parts])
        for margin in margins
    }
    margin = min(margins, key=lambda margin: bounds[margin][1])
    best = [part.changes([int(e.losses.argmin()) for e in part.examples]) for part in parts]
    mean, bound = bounds[margin]
    return margin, {
        "margin": min(margin, 1e9),
        "percent": round(100 * mean, 3),
        "at_worst": round(100 * bound, 3) if np.isfinite(bound) else None,
        "best vetted": round(100 * float(np.concatenate(best).mean()), 3),
        "n_scans": sum(len(part.examples) for part in parts),
    }


@torch.no_grad()
def settle_swaps(
    model: MNetSelect, scans: Unseen, swaps: Sequence[int], modl: nn.Module, n_rows: int
) -> dict[str, Any]:
    """Set how many swaps follow the choice to the surest gain."""
    base = scans.losses(scans.fixed)
    figures: dict[str, Any] = {"best_single_nrmse": round(float(base.mean()), 4)}
    choices = scans.deployed(model)
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
