"""Every row's masks: a sampler sees a scan's calibration lines and plan, and answers with a mask.

Random samplers draw from a generator of the scan's own, so that a mask follows from cohort and
number alone.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from mnet.masks import densities
from mnet.masks.line_plan import Bool, LinePlan
from mnet.masks.patterns import Pattern
from mnet.sampler.features import coil_features, features
from mnet.sampler.mnet import mask_of
from training.data.corpus import Sample, load

Sampler = Callable[[Sample, np.random.Generator], Bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """A fixed mask for every plan: the pattern that was found at the nearest acceleration."""

    patterns: tuple[tuple[float, Pattern], ...]  # acceleration, mask

    def __call__(self, plan: LinePlan) -> Bool:
        """Return the mask (n,) of a plan."""
        acceleration = float(plan.acquirable.sum()) / plan.n_lines
        nearest = min(self.patterns, key=lambda p: abs(np.log2(p[0] / acceleration)))
        return nearest[1].realise(plan)


SIMPLE: Mapping[str, Sampler] = {
    "uniform_random": lambda sample, rng: densities.uniform_random(sample.plan(), rng),
    "variable_density": lambda sample, rng: densities.variable_density(sample.plan(), rng),
    "equispaced": lambda sample, rng: densities.equispaced(sample.plan()),
    "low_pass": lambda sample, rng: densities.low_pass(sample.plan()),
}


def fixed(mask_for: Callable[[LinePlan], Bool]) -> Sampler:
    """Return the sampler that gives every scan of a plan the same mask."""
    return lambda sample, rng: mask_for(sample.plan())


def network(model: nn.Module) -> Sampler:
    """Return a network's sampler: it sees features of the calibration lines, nothing else."""

    @torch.no_grad()
    def choose(sample: Sample, rng: np.random.Generator) -> Bool:
        plan = sample.plan()
        calibration = sample.kspace[None, ..., torch.from_numpy(plan.calibration)]
        logits = model(features(calibration), plan, coil_features(calibration))
        return mask_of(logits, plan)

    return choose


def masks_of(
    sampler: Sampler, files: Sequence[Path], cohort: str, progress: str = ""
) -> dict[int, Bool]:
    """Return the sampler's mask of every scan of a cohort."""
    seed = zlib.crc32(cohort.encode())
    return {
        number: sampler(load(path), np.random.default_rng([seed, number]))
        for number, path in enumerate(tqdm(files, desc=progress or cohort, leave=False))
    }


def shuffled(chosen: Mapping[int, Bool], plans: Sequence[LinePlan]) -> dict[int, Bool]:
    """Give every scan the mask of the next one of its acceleration, carried over to its plan.

    Where the plans are equal it is that mask itself; a sampler that adapts loses by it.
    """
    groups: dict[int, list[int]] = {}
    for number in sorted(chosen):
        plan = plans[number]
        nominal = round(float(plan.acquirable.sum()) / plan.n_lines)
        groups.setdefault(nominal, []).append(number)
    given = {}
    for numbers in groups.values():
        # scans of equal plans next to each other: their masks change hands as they are
        numbers.sort(key=lambda n: (plans[n].acquirable.size, plans[n].n_lines, n))
        for ours, theirs in zip(numbers, [*numbers[1:], numbers[0]], strict=True):
            given[ours] = Pattern.of(chosen[theirs], plans[theirs]).realise(plans[ours])
    return dict(sorted(given.items()))


def medoids(patterns: Sequence[Pattern], plan: LinePlan, n: int, seed: int = 0) -> list[int]:
    """Return `n` patterns that stand for all: k-medoids of their masks' Hamming distance."""
    drawn = np.stack([pattern.realise(plan) for pattern in patterns])
    apart = (drawn[:, None] != drawn[None]).sum(-1)
    n = min(n, len(patterns))
    rng = np.random.default_rng(seed)
    best: tuple[float, list[int]] = (np.inf, [])
    for _ in range(20):
        chosen = [int(i) for i in rng.choice(len(patterns), n, replace=False)]
        while True:
            nearest = apart[:, chosen].argmin(1)
            moved = []
            for k, old in enumerate(chosen):
                members = np.flatnonzero(nearest == k)
                within = apart[np.ix_(members, members)].sum(0)
                moved.append(int(members[within.argmin()]) if members.size else old)
            if moved == chosen:
                break
            chosen = moved
        cost = float(apart[:, chosen].min(1).sum())
        if cost < best[0]:
            best = cost, sorted(set(chosen))
    return best[1]
