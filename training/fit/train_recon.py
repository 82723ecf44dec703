"""Train a reconstructor, MoDL or a U-Net: on mixed masks, or on the masks of one sampler.

    python -m training.fit.train_recon --config FILE

One reconstructor trained on mixed masks serves every sampler and acceleration; a learned row of the
table is post-trained from it on its own masks. Data consistency decouples over x, so a step takes a
band of rows of a scan: exact, and as cheap as a small image.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mnet.masks import densities
from mnet.masks.line_plan import Bool, LinePlan
from mnet.physics import sense
from mnet.physics.coils import mix_rows, row_matrices
from mnet.physics.prewhiten import apply
from mnet.recon.linear import cg_sense, zero_filled
from mnet.recon.modl import MoDL
from mnet.recon.noise_units import noise_units
from mnet.recon.unet import UNetReconstructor
from mnet.weight_files import load_weights, save_weights
from training.config import read_config, told
from training.data.coil_arrays import SHARED, noise_covariance
from training.data.corpus import Sample, cohort_files, load
from training.data.mask_file import read_masks
from training.data.rephased import rephased
from training.fit.card import provenance
from training.fit.loop import Fit, device, fit, is_first, join_processes, n_processes
from training.fit.party import Party
from training.fit.real_curve import read_watched, real_curve
from training.masks.labels import told_of

NEIGHBOURS = 20  # scans of about one size
ROLLED, COLOURED = 0.3, 0.5  # shares of steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run."""

    scans: str  # folder of cohorts
    cohorts: tuple[str, ...]
    validation: tuple[str, ...] = ()
    real: tuple[str, ...] = ()  # measured k-space files to watch beside it, never trained on
    parts: tuple[str, ...] = ()  # of training.data.sources, for the card
    run: str
    weights: str  # where they go, without suffix
    kind: str = "modl"  # or "unet"
    masks: str = ""  # folder of mask files by cohort; mixed masks without
    start: str = ""  # weights to go on from
    n_steps: int = 8000
    batch: int = 1
    n_rows: int = 48  # of the band in x
    n_channels: int = 24
    n_levels: int = 3
    n_unrolls: int = 5
    n_unrolls_at_first: int = 2  # for the first third: a short chain learns faster
    n_cg: int = 4
    lam: float = 0.05  # where learning starts
    learn_lam: bool = True  # the published MoDL keeps 100
    symmetric: bool = True  # MoDL's denoiser, under conjugation of k-space
    learning_rate: float = 1e-3
    decay: float = 0.998
    seed: int = 0
    every: int = 250  # steps between checkpoints
    n_validation: int = 8  # scans of every validation cohort


def train(config: Config) -> dict[str, Any]:
    """Run or resume; returns the validation figures."""
    join_processes()
    torch.manual_seed(config.seed)
    model = build(config).to(device())
    party = Party.adam(model, config.learning_rate, fast="log_lam")
    files = {cohort: cohort_files(Path(config.scans) / cohort) for cohort in config.cohorts}
    known = given_masks(config)
    watched = read_watched(config.real)
    scans = [
        (cohort, number)
        for cohort in files
        for number in range(len(files[cohort]))
        if not known or number in known[cohort]
    ]
    if n_processes() > 1:
        scans.sort(key=lambda scan: n_rows_of(files[scan[0]][scan[1]]))
    mask_for = mask_source(known)

    def loss_of(_: str, step: int, rng: np.random.Generator) -> Tensor:
        cohort, number = scans[place(len(scans), config.seed, step, rng)]
        sample = load(files[cohort][number])
        mask = torch.from_numpy(mask_for(cohort, number, sample, rng)).float()[None]
        if isinstance(model, MoDL):  # others know nothing of noise
            sample = in_noise_units(coloured(rephased(sample, rng), rng), mask)
        told = told_of(model, sample, mask)
        cut = fewer_coils(*rolled(*band(sample, config.n_rows, rng), rng))
        kspace, csm, mask = (part.to(device()) for part in mirrored(*cut, mask, rng))
        set_unrolls(model, config, step)
        # the logarithm: every scan counts by the share of its error, not by its error
        return recon_loss(model, kspace, csm, mask, told).log()

    settings = Fit(
        run=Path(config.run),
        n_steps=config.n_steps,
        batch=config.batch,
        seed=config.seed,
        every=config.every,
        decay=config.decay,
    )
    average = party.average

    def validation() -> dict[str, float]:
        set_unrolls(average, config, config.n_steps)
        return validate(average, config) | real_curve(average, watched)

    fit({"reconstructor": party}, loss_of, settings, validation)
    if not is_first():
        return {}
    figures = validation()
    card = {
        "training": told(config),
        "n_scans": len(scans),
        "validation": figures,
        "masks": mask_digests(Path(config.masks), config.cohorts) if config.masks else {},
        **provenance(config.parts, config.start),
    }
    save_weights(average.eval().cpu(), Path(config.weights), card)
    return figures


def build(config: Config) -> nn.Module:
    """Make the network, with the weights it starts from."""
    model: nn.Module
    if config.start:
        model = load_weights(config.start)[0].requires_grad_(True)
    elif config.kind == "unet":
        model = UNetReconstructor(config.n_channels, config.n_levels)
    elif config.kind == "modl":
        model = MoDL(
            config.n_channels,
            config.n_levels,
            config.n_unrolls,
            config.n_cg,
            initial_lam=config.lam,
            symmetric=config.symmetric,
        )
    else:
        raise ValueError(f"unknown reconstructor {config.kind!r}, expected modl or unet")
    if isinstance(model, MoDL):
        model.symmetric = model.config["symmetric"] = config.symmetric
        model.log_lam.requires_grad_(config.learn_lam)
    return model


def set_unrolls(model: nn.Module, config: Config, step: int) -> None:
    """Shorten the chain of an MoDL that starts from nothing, for its first third."""
    if isinstance(model, MoDL) and not config.start:
        most = config.n_unrolls_at_first if step < config.n_steps / 3 else config.n_unrolls
        model.n_unrolls = min(most, config.n_unrolls)


def place(n_scans: int, seed: int, step: int, rng: np.random.Generator) -> int:
    """Draw the place of a scan in a list; processes draw neighbours in it.

    With scans in order of their size no process waits long for the others.
    """
    if n_processes() == 1:
        return int(rng.integers(n_scans))
    common = int(np.random.default_rng([seed, step]).integers(n_scans))
    return int(np.clip(common + rng.integers(-NEIGHBOURS, NEIGHBOURS + 1), 0, n_scans - 1))


def n_rows_of(path: Path) -> int:
    """Return how many rows ky a scan on disk has."""
    with safe_open(path, "pt") as content:
        rows: int = content.get_slice("acquirable").get_shape()[0]
    return rows


def given_masks(config: Config) -> dict[str, dict[int, Bool]]:
    """Return the masks to train with, by cohort and scan; none for mixed ones."""
    if not config.masks:
        return {}
    return {c: read_masks(Path(config.masks) / f"{c}.npz").masks for c in config.cohorts}


def mask_digests(folder: Path, cohorts: Iterable[str]) -> dict[str, str]:
    """Return, by cohort, the sha256 of what the masks in a folder follow from."""
    return {cohort: read_masks(folder / f"{cohort}.npz").digest for cohort in cohorts}


def mask_source(
    known: Mapping[str, Mapping[int, Bool]],
) -> Callable[[str, int, Sample, np.random.Generator], Bool]:
    """Return which mask a scan of a cohort is trained with."""
    if not known:
        return lambda _cohort, _number, sample, rng: draw_mask(sample.plan(), rng)
    return lambda cohort, number, _sample, _rng: known[cohort][number]


def draw_mask(plan: LinePlan, rng: np.random.Generator) -> Bool:
    """Draw a mask of one of the families that a scan may meet."""
    kind = rng.choice(["uniform", "density", "even", "comb", "low"], p=[0.1, 0.25, 0.5, 0.1, 0.05])
    if kind == "uniform":
        return densities.uniform_random(plan, rng)
    if kind == "density":
        return densities.variable_density(plan, rng, power=float(rng.uniform(1, 6)))
    if kind == "comb":
        return densities.equispaced(plan, float(rng.uniform()))
    if kind == "low":
        return densities.low_pass(plan)
    power = float(rng.uniform(0, 8))
    mask = densities.from_density(
        plan, densities.power_law(plan, power, float(rng.uniform(0.4, 1.0)))
    )
    return swapped(mask, plan, rng, n_swaps=int(rng.integers(0, 12)))


def swapped(mask: Bool, plan: LinePlan, rng: np.random.Generator, n_swaps: int) -> Bool:
    """Move some movable lines to free rows."""
    taken = np.flatnonzero(mask & plan.movable)
    free = np.flatnonzero(~mask & plan.movable)
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


def coloured(sample: Sample, rng: np.random.Generator) -> Sample:
    """Undo the whitening of every second scan: what a scanner sends where no noise was measured.

    Coils share the noise of what they see, and their gains differ. Maps of mixed coils are the
    mixed maps.
    """
    if rng.random() > COLOURED:
        return sample
    n = len(sample.csm)
    covariance = noise_covariance(sample.csm, rng.uniform(*SHARED), np.ones(n))
    gains = torch.from_numpy(np.exp(rng.normal(0, 0.3, n))).to(covariance)
    mixing = torch.linalg.cholesky(covariance * torch.outer(gains, gains)).to(torch.complex64)
    csm = apply(mixing, sample.csm)
    csm = csm / csm.abs().square().sum(0).sqrt().clamp_min(1e-12) * (sample.csm != 0).any(0)
    return replace(sample, kspace=apply(mixing, sample.kspace), csm=csm)


def in_noise_units(sample: Sample, mask: Tensor) -> Sample:
    """Return a scan in the noise units of the lines of `mask` (1, ky), as MoDL puts it."""
    kspace, csm, _ = noise_units(sample.kspace[None], sample.csm[None], mask)
    return replace(sample, kspace=kspace[0], csm=csm[0])


def rolled(kspace: Tensor, csm: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Roll every third scan (1, coils, rows, ky) along y: its object crosses the edge.

    The same lines, another place in the field of view, which comes round.
    """
    if rng.random() > ROLLED:
        return kspace, csm
    n = kspace.shape[-1]
    step = int(rng.integers(1, n))
    turn = torch.exp(-2j * torch.pi * step / n * (torch.arange(n) - n // 2))
    return kspace * turn, csm.roll(step, -1)


def fewer_coils(kspace: Tensor, csm: Tensor, dropped: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Compress the coils of a band row by row: the same image of all lines, sooner."""
    matrices = row_matrices(csm, dropped)
    return mix_rows(matrices, kspace), mix_rows(matrices, csm)


def mirrored(
    kspace: Tensor, csm: Tensor, mask: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return every second scan mirrored along y, and every second as its complex conjugate.

    Shapes (1, coils, rows, ky) and mask (1, ky). Which half of k-space is the fuller one is a
    matter of sign conventions, of which a network shall not learn any; nor of where the nose is.
    """
    shift = 1 - kspace.shape[-1] % 2  # row 0 of an even number has no counterpart but itself

    def turned_over(part: Tensor) -> Tensor:
        return part.flip(-1).roll(shift, -1)

    if rng.random() < 0.5:
        kspace, csm, mask = turned_over(kspace), turned_over(csm), turned_over(mask)
    if rng.random() < 0.5:
        kspace, mask = turned_over(kspace.conj()).resolve_conj(), turned_over(mask)
        csm = csm.conj().resolve_conj()
    return kspace, csm, mask


def recon_loss(
    model: nn.Module, kspace: Tensor, csm: Tensor, mask: Tensor, told: Tensor | None = None
) -> Tensor:
    """Return the relative L2 error against the image of all lines; `told` as of `MoDL.forward`."""
    more = () if told is None else (told.to(kspace.device),)
    image = model(kspace, csm, mask, *more)
    return nrmse(image, sense.adjoint(kspace, csm, torch.ones_like(mask)))


@torch.no_grad()
def validate(model: nn.Module, config: Config) -> dict[str, float]:
    """Return the mean NRMSE of the network, CG-SENSE and zero-filling on validation scans."""
    sums: dict[str, list[float]] = {config.kind: [], "cg_sense": [], "zero_filled": []}
    mask_for = mask_source(given_masks(replace(config, cohorts=config.validation)))
    for cohort in config.validation:
        files = cohort_files(Path(config.scans) / cohort)[: config.n_validation]
        for number, path in enumerate(files):
            sample, rng = load(path), np.random.default_rng([99, number])
            kspace, csm = (part.to(device()) for part in band(sample, 2 * config.n_rows, rng))
            mask = torch.from_numpy(mask_for(cohort, number, sample, rng)).float()[None]
            mask = mask.to(device())
            truth = sense.adjoint(kspace, csm, torch.ones_like(mask))
            sums[config.kind].append(
                float(recon_loss(model, kspace, csm, mask, told_of(model, sample, mask.cpu())))
            )
            for name, method in (("cg_sense", cg_sense), ("zero_filled", zero_filled)):
                sums[name].append(float(nrmse(method(kspace, csm, mask), truth)))
    return {name: round(float(np.mean(values)), 4) for name, values in sums.items() if values}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    print(json.dumps(train(read_config(Config, parser.parse_args().config))))


if __name__ == "__main__":
    main()
