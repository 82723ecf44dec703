"""Train MNet and a reconstructor in turns, as the paper does; or MNet alone beside a fixed one.

    python -m training.fit.alternate --config FILE

With features z of the calibration lines, the ICD mask M, k-space y and the image x of all lines,

    sampler:        min  BCE(MNet(z), M) + recon_weight |f(A^H m y) - x| / |x|      (Eq. 2 and 4)
    reconstructor:  min  |f(A^H m y) - x| / |x|                                     (Eq. 3)

where m = top_lines(MNet(z)) has the exact budget and its gradient is straight through. Gautam, Li
and Ravishankar, arXiv:2509.16846. Both errors are relative, so the gradient of a line's entry in m
does not grow with coils or readout and stays beside that of the BCE.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnet.masks.line_plan import Bool, LinePlan
from mnet.recon.unet import UNetReconstructor
from mnet.sampler.features import coil_features, features
from mnet.sampler.mnet import MNet, mask_of, top_lines
from mnet.weight_files import load_weights, read_card, save_weights
from training.config import read_config, told
from training.data.corpus import Sample, cohort_files, load
from training.data.mask_file import write_masks
from training.fit.card import provenance
from training.fit.labelled_scans import LabelledScan, label_source, read_scans
from training.fit.loop import Fit, device, fit, is_first, join_processes
from training.fit.party import Party, trainable
from training.fit.schedule import Schedule
from training.fit.train_recon import band, recon_loss
from training.masks.diversity import Chosen, diversity_figures, label_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run."""

    scans: str  # folder of cohorts
    labels: str  # folder of label files by cohort, of this kind of reconstructor
    cohorts: tuple[str, ...]
    validation: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()  # of training.data.sources, for the card
    run: str
    weights: str  # of MNet, where they go, without suffix
    reconstructor: str = ""  # where those of the reconstructor go, unless it is fixed
    masks: str = ""  # folder for MNet's masks of `mask_cohorts`
    mask_cohorts: tuple[str, ...] = ()
    start: str = ""  # weights the reconstructor starts from; a fixed one needs them
    fixed: bool = False  # train MNet alone
    n_reconstructor: int = 20  # steps in turn
    n_sampler: int = 40
    unit: str = "step"  # what a step takes: see training.fit.schedule
    n_steps: int = 6000  # of both together
    batch: int = 4  # scans per step and process
    n_rows: int = 40  # of the band in x
    recon_weight: float = 1.0  # lambda of Eq. 2, which the paper does not give
    recon_warm_up: int = 600  # steps over which it grows; the labels lead at first
    bce_over: str = "movable"  # or "all" rows, as the paper
    sampler_channels: int = 24
    sampler_embedding: int = 64
    rich: bool = False  # features beyond the coil average
    patterns: str = ""  # JSON file of known good masks beside the family
    n_channels: int = 16  # of a U-Net that starts from nothing
    n_levels: int = 3
    sampler_rate: float = 1e-4
    learning_rate: float = 1e-3
    decay: float = 0.998
    seed: int = 0
    every: int = 300  # steps between checkpoints
    n_validation: int = 8  # scans of every validation cohort that are reconstructed

    def __post_init__(self) -> None:
        if self.bce_over not in ("movable", "all"):
            raise ValueError(f"bce_over {self.bce_over!r}, expected movable or all")
        if self.fixed and not self.start:
            raise ValueError("a fixed reconstructor needs weights to start from: set `start`")
        if not self.fixed and not self.reconstructor:
            raise ValueError("`reconstructor` must say where its weights go, unless it is fixed")
        if self.mask_cohorts and not self.masks:
            raise ValueError("`masks` must say where the masks of `mask_cohorts` go")


def train(config: Config) -> dict[str, Any]:
    """Run or resume; returns the validation figures."""
    join_processes()
    torch.manual_seed(config.seed)
    folders = [Path(config.labels) / cohort for cohort in config.cohorts + config.validation]
    labels_by = label_source(folders)
    schedule = Schedule(
        n_reconstructor=0 if config.fixed else config.n_reconstructor,
        n_sampler=config.n_sampler,
        unit=config.unit,
        batch=config.batch,
        seed=config.seed,
    )
    known = json.loads(Path(config.patterns).read_text()) if config.patterns else []
    patterns = [entry["pattern"] for entry in known]
    sampler = MNet(config.sampler_channels, config.sampler_embedding, config.rich, patterns)
    sampler = sampler.to(device())
    reconstructor = build_reconstructor(config).to(device())
    parties = {"sampler": rmsprop(sampler, config.sampler_rate)}
    if not config.fixed:
        parties["reconstructor"] = Party.adam(reconstructor, config.learning_rate)
    scans = scans_of(config, config.cohorts)
    labelled = [scan for scan in scans if scan.label is not None]
    if not labelled:
        raise ValueError(f"no ICD masks in {config.labels} for {', '.join(config.cohorts)}")
    # a batch that both parties take in turn has to have labels
    pools = {"sampler": labelled, "reconstructor": labelled if config.unit == "batch" else scans}

    def loss_of(party: str, step: int, rng: np.random.Generator) -> Tensor:
        reconstructor.requires_grad_(party == "reconstructor")
        weight = config.recon_weight * min(1.0, step / max(config.recon_warm_up, 1))
        rng = schedule.generator(step, rng)
        losses = []
        for number in schedule.scans(step, len(pools[party]), rng):
            scan = pools[party][number]
            if party == "sampler":
                loss = sampler_loss(sampler, reconstructor, scan, config, weight, rng)
            else:
                loss = reconstructor_loss(sampler, reconstructor, scan, config, rng)
            if torch.isfinite(loss):  # a band of air counts nothing
                losses.append(loss)
        return torch.stack(losses).mean() if losses else torch.tensor(torch.nan)

    settings = Fit(
        run=Path(config.run),
        n_steps=config.n_steps,
        seed=config.seed,
        every=config.every,
        decay=config.decay,
        turn=schedule.party,
    )
    deployed = parties["sampler"].average
    judge = reconstructor if config.fixed else parties["reconstructor"].average
    check = partial(validate, deployed, judge, scans_of(config, config.validation), config)
    fit(parties, loss_of, settings, check)
    if not is_first():
        return {}
    figures = check()
    card = {
        "training": told(config),
        "n_scans": len(scans),
        "n_icd_masks": len(labelled),
        "labels_by": labels_by,
        "validation": figures,
        **provenance(config.parts, config.start),
    }
    save(deployed, config.weights, card)
    if not config.fixed:
        save(judge, config.reconstructor, card)
    write_predictions(deployed, config)
    return figures


def save(model: nn.Module, path: str, card: dict[str, Any]) -> None:
    """Write the weights of a trained network with their card."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_weights(model.eval().cpu(), Path(path), card)


def write_predictions(model: nn.Module, config: Config) -> None:
    """Write the masks that a trained sampler chooses for the cohorts that ask for them."""
    digest = read_card(config.weights)["sha256"]
    for cohort in config.mask_cohorts:
        masks = predict_masks(model, Path(config.scans), cohort)
        settings = {"sampler": "MNet", "weights": digest, "cohort": cohort}
        write_masks(Path(config.masks) / f"{cohort}.npz", masks, settings)


def scans_of(config: Config, cohorts: Sequence[str]) -> list[LabelledScan]:
    """Return the scans of some cohorts with their ICD masks."""
    return [
        scan
        for cohort in cohorts
        for scan in read_scans(Path(config.scans) / cohort, Path(config.labels) / cohort)
    ]


def build_reconstructor(config: Config) -> nn.Module:
    """Make the reconstructor, with the weights it starts from."""
    if not config.start:
        return UNetReconstructor(config.n_channels, config.n_levels)
    return load_weights(config.start)[0].requires_grad_(not config.fixed)


def rmsprop(model: nn.Module, learning_rate: float) -> Party:
    """Make a party of a network with RMSprop."""
    party = Party.adam(model, learning_rate)
    return Party(
        model=model,
        optimiser=torch.optim.RMSprop(trainable(model), lr=learning_rate),
        average=party.average,
    )


def sampler_loss(
    sampler: nn.Module,
    reconstructor: nn.Module,
    scan: LabelledScan,
    config: Config,
    weight: float,
    rng: np.random.Generator,
) -> Tensor:
    """Return the loss of Eq. 2 for a scan, differentiable by the sampler."""
    sample = load(scan.path)
    plan = sample.plan()
    kspace, csm = (part.to(device()) for part in band(sample, config.n_rows, rng))
    sampler.train()
    logits = scan_logits(sampler, sample, plan, phase=2 * np.pi * rng.random())
    over_all = config.bce_over == "all"
    loss = label_loss(logits[0], scan.icd_mask(plan), plan, over_all=over_all)
    if weight > 0:
        loss = loss + weight * recon_loss(reconstructor, kspace, csm, top_lines(logits, plan))
    return loss


def reconstructor_loss(
    sampler: nn.Module,
    reconstructor: nn.Module,
    scan: LabelledScan,
    config: Config,
    rng: np.random.Generator,
) -> Tensor:
    """Return the loss of Eq. 3 for a scan on the mask that the sampler chooses now."""
    sample = load(scan.path)
    plan = sample.plan()
    kspace, csm = (part.to(device()) for part in band(sample, config.n_rows, rng))
    with torch.no_grad():
        mask = top_lines(scan_logits(sampler.eval(), sample, plan), plan)
    return recon_loss(reconstructor, kspace, csm, mask)


def scan_logits(model: nn.Module, sample: Sample, plan: LinePlan, phase: float = 0.0) -> Tensor:
    """Return logits (1, ky) from the calibration lines of a scan, turned by a global phase."""
    calibration = sample.kspace[None, ..., torch.from_numpy(plan.calibration)]
    calibration = (calibration * complex(np.exp(1j * phase))).to(device_of(model))
    logits: Tensor = model(features(calibration), plan, coil_features(calibration))
    return logits.float()  # under autocast they are halves


def device_of(model: nn.Module) -> torch.device:
    """Return where a network is."""
    return next(model.parameters()).device


@torch.no_grad()
def validate(
    sampler: nn.Module, reconstructor: nn.Module, scans: Sequence[LabelledScan], config: Config
) -> dict[str, float]:
    """Return the NRMSE of predicted masks and of ICD masks, and whether masks adapt at all."""
    sampler.eval()
    chosen: list[Chosen] = []
    errors: dict[str, list[float]] = {"nrmse": [], "nrmse_icd": []}
    n_judged: Counter[Path] = Counter()
    for number, scan in enumerate(scans):
        sample = load(scan.path)
        plan = sample.plan()
        logits = scan_logits(sampler, sample, plan)
        mask = mask_of(logits, plan)
        label = scan.icd_mask(plan) if scan.label is not None else None
        chosen.append(Chosen(plan=plan, logits=logits[0].cpu(), mask=mask, label=label))
        if n_judged[scan.path.parent] < config.n_validation:
            n_judged[scan.path.parent] += 1
            cut = band(sample, 2 * config.n_rows, np.random.default_rng([99, number]))
            kspace, csm = (part.to(device()) for part in cut)
            for name, given in (("nrmse", mask), ("nrmse_icd", label)):
                if given is not None:
                    lines_taken = torch.from_numpy(given).float()[None].to(device())
                    loss = recon_loss(reconstructor, kspace, csm, lines_taken)
                    errors[name].append(float(loss))
    means = {name: float(np.nanmean(values)) for name, values in errors.items() if values}
    return {name: round(x, 4) for name, x in (means | diversity_figures(chosen)).items()}


@torch.no_grad()
def predict_masks(model: nn.Module, scans: Path, cohort: str) -> dict[int, Bool]:
    """Return the mask (ky,) that a sampler chooses for every scan of a cohort."""
    model.eval()
    masks = {}
    for path in cohort_files(scans / cohort):
        sample = load(path)
        plan = sample.plan()
        masks[int(path.stem)] = mask_of(scan_logits(model, sample, plan), plan)
    return masks


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    print(json.dumps(train(read_config(Config, parser.parse_args().config))))


if __name__ == "__main__":
    main()
