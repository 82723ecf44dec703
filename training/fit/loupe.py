"""LOUPE for several coils: one density for all scans, learned together with a U-Net.

    python -m training.fit.loupe --config FILE

A step draws lines with the probabilities p of a LoupeMask, and the reconstruction error is passed
back straight through the draw as if it were a sigmoid of p - u:

    min over p and the U-Net f:  |f(A^H m y) - x| / |x|,    m = [u < p],  u uniform in (0, 1)

At test the most probable lines are taken, exactly the budget.
"""

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnet.masks.line_plan import Bool
from mnet.recon.unet import UNetReconstructor
from mnet.weight_files import load_weights, save_weights
from training.config import read_config, told
from training.data.corpus import cohort_files, load
from training.data.mask_file import write_masks
from training.fit.card import provenance
from training.fit.loop import Fit, device, fit, is_first, join_processes
from training.fit.party import Party
from training.fit.train_recon import band, recon_loss
from training.masks.loupe_mask import LoupeMask, save_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run."""

    scans: str  # folder of cohorts
    cohorts: tuple[str, ...]
    validation: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()  # of training.data.sources, for the card
    run: str
    weights: str  # of the mask, where they go, without suffix
    reconstructor: str  # where those of the U-Net go
    masks: str = ""  # folder for the masks of `mask_cohorts`
    mask_cohorts: tuple[str, ...] = ()
    start: str = ""  # weights the U-Net starts from
    accelerations: tuple[float, ...] = (4.0, 8.0)  # that have weights of their own
    n_grid: int = 161  # positions of ky: each row of 160 has its own
    slope: float = 5.0  # of a probability with its weight
    draw_slope: float = 12.0  # of the relaxed draw that gradients see
    n_steps: int = 6000
    batch: int = 2
    n_rows: int = 40  # of the band in x
    n_channels: int = 16  # of a U-Net that starts from nothing
    n_levels: int = 3
    mask_rate: float = 1e-2
    learning_rate: float = 1e-3
    decay: float = 0.998
    seed: int = 0
    every: int = 300  # steps between checkpoints
    n_validation: int = 8  # scans of every validation cohort
    n_draws: int = 10  # random masks of a scan in validation, for their spread

    def __post_init__(self) -> None:
        if self.mask_cohorts and not self.masks:
            raise ValueError("`masks` must say where the masks of `mask_cohorts` go")


class Joint(nn.Module):
    """The mask and its U-Net, which one optimiser trains."""

    def __init__(self, mask: LoupeMask, reconstructor: nn.Module) -> None:
        super().__init__()
        self.mask, self.reconstructor = mask, reconstructor


def train(config: Config) -> dict[str, Any]:
    """Run or resume; returns the validation figures."""
    join_processes()
    torch.manual_seed(config.seed)
    loupe = LoupeMask(config.accelerations, config.n_grid, config.slope, config.draw_slope)
    unet = (
        load_weights(config.start)[0].requires_grad_(True)
        if config.start
        else UNetReconstructor(config.n_channels, config.n_levels)
    )
    joint = Joint(loupe, unet).to(device())
    optimiser = torch.optim.Adam(
        [
            {"params": list(loupe.parameters()), "lr": config.mask_rate},
            {"params": list(unet.parameters()), "lr": config.learning_rate},
        ]
    )
    party = Party(model=joint, optimiser=optimiser, average=copy.deepcopy(joint))
    files = [f for cohort in config.cohorts for f in cohort_files(Path(config.scans) / cohort)]

    def loss_of(_: str, __: int, rng: np.random.Generator) -> Tensor:
        sample = load(files[int(rng.integers(len(files)))])
        kspace, csm = (part.to(device()) for part in band(sample, config.n_rows, rng))
        plan = sample.plan()
        uniform = torch.from_numpy(rng.random(plan.acquirable.size)).float().to(device())
        return recon_loss(unet, kspace, csm, loupe.draw(plan, uniform)[None])

    settings = Fit(
        run=Path(config.run),
        n_steps=config.n_steps,
        batch=config.batch,
        seed=config.seed,
        every=config.every,
        decay=config.decay,
    )
    average: Any = party.average
    fit({"loupe": party}, loss_of, settings, lambda: validate(average, config))
    if not is_first():
        return {}
    figures = validate(average, config)
    card = {
        "training": told(config),
        "n_scans": len(files),
        "validation": figures,
        **provenance(config.parts, config.start),
    }
    for path in (config.weights, config.reconstructor):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_weights(average.reconstructor.eval().cpu(), Path(config.reconstructor), card)
    digest = save_mask(average.mask.cpu(), Path(config.weights), card)
    for cohort in config.mask_cohorts:
        found = {"sampler": "LOUPE", "weights": digest, "cohort": cohort}
        masks = predict_masks(average.mask, Path(config.scans), cohort)
        write_masks(Path(config.masks) / f"{cohort}.npz", masks, found)
    return figures


@torch.no_grad()
def validate(joint: Joint, config: Config) -> dict[str, float]:
    """Return the NRMSE of the deployed masks and of random draws, with the spread of their means.

    `uncertainty` is the mean of 4 p (1 - p) over movable rows: 0 where the mask is settled.
    """
    rng = np.random.default_rng(98)
    errors: list[float] = []
    draws: list[list[float]] = []  # (scans, draws)
    uncertain: list[float] = []
    for cohort in config.validation:
        for path in cohort_files(Path(config.scans) / cohort)[: config.n_validation]:
            sample = load(path)
            plan = sample.plan()
            cut = band(sample, 2 * config.n_rows, np.random.default_rng([99, int(path.stem)]))
            kspace, csm = (part.to(device()) for part in cut)
            masks = joint.mask.random_masks(plan, config.n_draws, rng)
            losses = [
                float(recon_loss(joint.reconstructor, kspace, csm, as_tensor(mask)))
                for mask in [joint.mask.mask(plan), *masks]
            ]
            if np.all(np.isfinite(losses)):  # a band of air says nothing
                errors.append(losses[0])
                draws.append(losses[1:])
            p = joint.mask.probabilities(plan).cpu().numpy()[plan.movable]
            uncertain.append(float((4 * p * (1 - p)).mean()))
    if not errors:
        return {}
    figures = {"nrmse": np.mean(errors), "uncertainty": np.mean(uncertain)}
    if config.n_draws:
        means = np.mean(draws, axis=0)
        figures |= {"nrmse_drawn": means.mean(), "spread_drawn": means.std()}
    return {name: round(float(value), 4) for name, value in figures.items()}


def as_tensor(mask: Bool) -> Tensor:
    """Return a mask (ky,) as the reconstructor takes it, (1, ky)."""
    return torch.from_numpy(mask).float()[None].to(device())


def predict_masks(loupe: LoupeMask, scans: Path, cohort: str) -> dict[int, Bool]:
    """Return the deployed mask (ky,) for the plan of every scan of a cohort."""
    files = cohort_files(scans / cohort)
    return {int(path.stem): loupe.mask(load(path).plan()) for path in files}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    print(json.dumps(train(read_config(Config, parser.parse_args().config))))


if __name__ == "__main__":
    main()
