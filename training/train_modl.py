"""Train MoDL on mixed masks: one reconstructor for every sampler and acceleration.

    python -m training.train_modl --config training/configs/modl.json

Data consistency decouples over x, so a step takes a band of rows of a scan: exact, and as cheap as
a small image. Resumes from its checkpoint; the last step writes the weights and their card.
"""

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnet import masks, sense
from mnet.masks import Bool, Lines
from mnet.modl import MoDL
from mnet.recon import cg_sense, zero_filled
from mnet.weights import save_weights
from training.card import provenance
from training.checkpoint import load_checkpoint, save_checkpoint, update_average
from training.config import read_config
from training.corpus import Sample, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run."""

    corpus: str = "runs/corpus"
    run: str = "runs/modl"
    weights: str = "mnet/weights/modl"
    n_steps: int = 4000
    n_rows: int = 64  # of the band in x
    n_channels: int = 16
    n_levels: int = 3
    n_unrolls: int = 5
    n_unrolls_at_first: int = 2  # for the first third: a short chain learns faster
    n_cg: int = 8
    learning_rate: float = 1e-3
    decay: float = 0.998  # of the average of the weights
    seed: int = 0
    n_threads: int = 2
    every: int = 250  # steps between checkpoints
    n_validation: int = 24


def draw_mask(lines: Lines, rng: np.random.Generator) -> Bool:
    """Draw a mask of one of the families that a scan may meet."""
    kind = rng.choice(["uniform", "density", "even", "comb", "low"], p=[0.1, 0.25, 0.5, 0.1, 0.05])
    if kind == "uniform":
        return masks.uniform_random(lines, rng)
    if kind == "density":
        return masks.variable_density(lines, rng, power=float(rng.uniform(1, 6)))
    if kind == "comb":
        return masks.equispaced(lines, float(rng.uniform()))
    if kind == "low":
        return masks.low_pass(lines)
    power = float(rng.uniform(0, 8))
    mask = masks.from_density(lines, masks.power_law(lines, power, float(rng.uniform(0.4, 1.0))))
    return swapped(mask, lines, rng, n_swaps=int(rng.integers(0, 12)))


def swapped(mask: Bool, lines: Lines, rng: np.random.Generator, n_swaps: int) -> Bool:
    """Move some movable lines to free rows."""
    taken = np.flatnonzero(mask & lines.movable)
    free = np.flatnonzero(~mask & lines.movable)
    n = min(n_swaps, taken.size, free.size)
    mask = mask.copy()
    mask[rng.choice(taken, n, replace=False)] = False
    mask[rng.choice(free, n, replace=False)] = True
    return mask


def nrmse(image: Tensor, reference: Tensor) -> Tensor:
    """Return |image - reference| / |reference| of complex images."""
    return (image - reference).abs().square().sum().sqrt() / reference.abs().square().sum().sqrt()


def band(sample: Sample, n_rows: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut a band of rows: k-space and maps (1, coils, rows, ky); a random global phase."""
    n_x = sample.kspace.shape[-2]
    start = int(rng.integers(0, max(n_x - n_rows, 0) + 1))
    cut = slice(start, start + n_rows)
    phase = complex(np.exp(2j * np.pi * rng.random()))
    kspace, csm = sample.kspace[:, cut] * phase, sample.csm[:, cut]
    if rng.random() < 0.5:  # mirror in x
        kspace, csm = kspace.flip(1), csm.flip(1)
    return kspace[None], csm[None]


def train(config: Config) -> dict[str, Any]:
    """Run or resume; returns the validation figures."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.n_threads)
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    model = MoDL(config.n_channels, config.n_levels, config.n_unrolls, config.n_cg)
    average = copy.deepcopy(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    first = load_checkpoint(run / "checkpoint", model, average, optimiser)
    files = sorted((Path(config.corpus) / "train").glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no scans in {config.corpus}/train: run training.corpus first")
    losses, started = [], time.monotonic()
    for step in range(first, config.n_steps):
        rng = np.random.default_rng([config.seed, step])  # a resumed run draws what it would have
        sample = load(files[int(rng.integers(len(files)))])
        kspace, csm = band(sample, config.n_rows, rng)
        mask = torch.from_numpy(draw_mask(sample.lines(), rng)).float()[None]
        truth = sense.adjoint(kspace, csm, torch.ones_like(mask))
        short = step < config.n_steps / 3
        model.n_unrolls = config.n_unrolls_at_first if short else config.n_unrolls
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step)
        loss = nrmse(model(kspace, csm, mask), truth)
        if not torch.isfinite(loss):
            continue  # a band of pure air
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimiser.step()
        update_average(average, model, step, config.decay)
        losses.append(float(loss.detach()))
        if (step + 1) % config.every == 0 or step + 1 == config.n_steps:
            save_checkpoint(run / "checkpoint", step + 1, model, average, optimiser)
            average.n_unrolls = config.n_unrolls
            seconds = (time.monotonic() - started) / (step + 1 - first)
            left = seconds * (config.n_steps - step - 1) / 60
            figures = validate(average, config)
            print(
                f"step {step + 1}/{config.n_steps}  loss {np.mean(losses[-config.every :]):.4f}  "
                f"lam {model.lam.item():.4f}  {seconds:.2f} s/step  {left:.0f} min left  {figures}",
                flush=True,
            )
    average.n_unrolls = config.n_unrolls
    figures = validate(average, config)
    card = {
        "training": asdict(config),
        "command": "python -m training.train_modl --config training/configs/modl.json",
        "n_scans": len(files),
        "validation": {**figures, "subjects": 1},
        **provenance(),
    }
    save_weights(average.eval(), Path(config.weights), card)
    return figures


def learning_rate(config: Config, step: int) -> float:
    """Warm up over 100 steps, then fall as a cosine."""
    progress = step / max(config.n_steps, 1)
    return config.learning_rate * min((step + 1) / 100, 1) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def validate(model: MoDL, config: Config) -> dict[str, float]:
    """Return the mean NRMSE of MoDL, CG-SENSE and zero-filled on validation scans."""
    files = sorted((Path(config.corpus) / "validation").glob("*.safetensors"))
    sums: dict[str, list[float]] = {"modl": [], "cg_sense": [], "zero_filled": []}
    for number, path in enumerate(files[: config.n_validation]):
        sample, rng = load(path), np.random.default_rng([99, number])
        kspace, csm = band(sample, 96, rng)
        mask = torch.from_numpy(draw_mask(sample.lines(), rng)).float()[None]
        truth = sense.adjoint(kspace, csm, torch.ones_like(mask))
        for name, image in (
            ("modl", model(kspace, csm, mask)),
            ("cg_sense", cg_sense(kspace, csm, mask)),
            ("zero_filled", zero_filled(kspace, csm, mask)),
        ):
            sums[name].append(float(nrmse(image, truth)))
    return {name: round(float(np.mean(values)), 4) for name, values in sums.items() if values}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    print(json.dumps(train(read_config(Config, parser.parse_args().config))))


if __name__ == "__main__":
    main()
