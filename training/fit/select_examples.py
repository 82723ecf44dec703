"""Labelled scans as MNet-select learns them: what it sees of each, and what every mask loses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mnet.masks.line_plan import Bool, LinePlan
from mnet.sampler.features import coil_features, features
from mnet.sampler.mnet import Body
from mnet.sampler.mnet_select import Table, swap_table
from training.data.corpus import load, scan_path
from training.data.mask_file import read_masks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """One labelled scan."""

    path: Path
    plan: LinePlan
    z: Tensor  # (1, 3, x, L)
    coils: Tensor  # (1, 19)
    image: Tensor  # what the body sees, (channels, 64, L)
    numbers: Tensor  # (n_numbers,)
    losses: Tensor  # (masks,)
    target: Tensor  # (masks,) what the scan adds to the mean log ratios, in units of SCALE
    table: Tensor  # (n_table, ky) of the best fixed mask
    value: Tensor  # (ky,) standardised, of every movable row beside the others of that mask
    movable: Tensor  # (ky,)


def read_examples(labels: Path, scans: Path, cohorts: Sequence[str], body: Body) -> list[Example]:
    """Read the labels of cohorts, and of their scans the calibration lines alone."""
    examples = []
    for cohort in cohorts:
        blocks = sorted((labels / cohort).glob("*.npz"))
        if not blocks:
            raise FileNotFoundError(f"no labels in {labels / cohort}")
        for block in tqdm(blocks, desc=f"labels of {cohort}"):
            found = read_masks(block)
            for i, (number, mask) in enumerate(found.masks.items()):
                path = scan_path(scans / cohort, number)
                arrays = {name: values[i] for name, values in found.arrays.items()}
                examples.append(_example(path, mask, arrays, body))
    return examples


def _example(path: Path, start: Bool, arrays: dict[str, NDArray[Any]], body: Body) -> Example:
    sample = load(path)
    plan = sample.plan()
    calibration = sample.kspace[None, ..., torch.from_numpy(plan.calibration)]
    z, coils = features(calibration), coil_features(calibration)
    image, numbers = body.inputs(z, plan, coils)
    value = -torch.from_numpy(arrays["gradient"][: start.size]).float()
    movable = torch.from_numpy(plan.movable)
    spread = value[movable].abs().mean().clamp_min(1e-12)
    return Example(
        path=path,
        plan=plan,
        z=z,
        coils=coils,
        image=image[0],
        numbers=numbers[0],
        losses=torch.from_numpy(arrays["dictionary_loss"]).float(),
        target=torch.zeros(0),
        table=torch.from_numpy(swap_table(plan, start)),
        value=torch.where(movable, value / spread, 0.0),
        movable=movable,
    )


def relative(examples: Sequence[Example]) -> Tensor:
    """Return how much worse every mask is than the best one of its scan: (scans, masks)."""
    losses = torch.stack([e.losses for e in examples])
    return losses / losses.min(1, keepdim=True).values - 1


def mean_table(examples: Sequence[Example], n_least: int = 8) -> Table:
    """Return, by acceleration, the mean relative loss of every vetted mask."""
    accelerations = np.array([nominal(e.plan) for e in examples])
    losses = relative(examples).numpy()
    table: Table = {"acceleration": [], "loss": []}
    for acceleration in sorted(set(accelerations.tolist())):
        chosen = losses[accelerations == acceleration]
        if len(chosen) >= n_least:
            table["acceleration"].append(acceleration)
            table["loss"].append([round(float(x), 5) for x in chosen.mean(0)])
    if not table["loss"]:
        raise ValueError(f"{len(examples)} labels, none of {n_least} scans at one acceleration")
    return table


def nominal(plan: LinePlan) -> float:
    """Return the acceleration of a plan as its table names it."""
    return float(round(float(plan.acquirable.sum()) / plan.n_lines))
