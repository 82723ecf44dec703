"""What a study will take on this machine: counts of steps, times their cost as measured here."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from mnet.masks.family import FAMILY
from mnet.recon.modl import MoDL
from mnet.recon.unet import UNetReconstructor
from training.data import corpus
from training.data.phantoms import write_phantoms
from training.fit import alternate, loupe, train_recon
from training.fit.train_recon import band, draw_mask, recon_loss
from training.masks import labels, population
from training.masks.labels import BLOCK, scan_loss
from training.study.scans import writers
from training.study.study import Study

N_LINES = 18  # movable ones of the reference plan, between 4x and 8x


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds on one thread, on one scan of the study."""

    scan: float  # to draw it
    modl_step: float  # of training
    unet_step: float
    evaluation: float  # of one mask by MoDL, in batches
    gradient: float
    image: float  # MoDL on the whole readout


def measure(study: Study) -> Costs:
    """Time the parts of a study on its first cohort's first scan."""
    with TemporaryDirectory() as folder:
        writing = _some(study, Path(folder))
        next(writing)  # loads the volumes
        started = time.perf_counter()
        path = next(writing)
        scan = time.perf_counter() - started
        sample = corpus.load(path)
    rng = np.random.default_rng(0)
    kspace, csm = band(sample, 40, rng)
    mask = torch.from_numpy(draw_mask(sample.plan(), rng)).float()[None]
    modl, unet = MoDL(16, 3, 5, 8), UNetReconstructor()
    loss = scan_loss(sample, modl, 40)
    many = mask.repeat(8, 1)
    with torch.no_grad():
        evaluation = seconds(lambda: loss(many)) / 8
        full = sample.kspace[None], sample.csm[None]
        image = seconds(lambda: modl(*full, mask), 2)
    return Costs(
        scan=scan,
        modl_step=seconds(lambda: recon_loss(modl, kspace, csm, mask).backward()),
        unet_step=seconds(lambda: recon_loss(unet, kspace, csm, mask).backward()),
        evaluation=evaluation,
        gradient=seconds(lambda: loss(mask.clone().requires_grad_()).sum().backward()),
        image=image,
    )


def _some(study: Study, folder: Path) -> Iterator[Path]:
    """Write scans of the first cohort: to a folder for now, or where measured ones go."""
    if study.images is None:
        return writers(study)[study.base[0]]
    write_phantoms(study.images, study.phantoms)
    return corpus.write(folder, study.cohorts[study.base[0]], study.images)


def seconds(call: Callable[[], object], n: int = 4) -> float:
    """Return the median seconds of a call, after one to warm up."""
    call()
    taken = []
    for _ in range(n):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def forecast(study: Study, costs: Costs) -> list[tuple[str, str, float]]:
    """Return what every step does, in words, and its minutes on one worker."""

    def setting(step: str, name: str, kind: type) -> int:
        default = {f.name: f.default for f in fields(kind)}[name]
        return int(study.settings.get(step, {}).get(name, default))

    n_scans = sum(study.n_scans(name) for name in study.cohorts)
    n_labelled = sum(
        study.n_scans(c)
        for c in {c for f in study.folds.values() for c in (*f.train, *f.validation)}
    )
    shares = {s: float(study.settings.get(s, {}).get("share", 1)) for s in ("icd", "labels")}
    n_tried = round(n_labelled * shares["labels"])
    n_icd = n_labelled * shares["icd"] / setting("icd", "icd_every", labels.Config)
    moves = setting("icd", "max_moves", labels.Config)
    per_icd = moves * (
        costs.gradient + costs.evaluation * setting("icd", "shortlist", labels.Config)
    ) + costs.evaluation * len(FAMILY)
    n_learned = int(study.settings.get("vetted", {}).get("n_masks", 10))
    n_masks = len(FAMILY) + n_learned
    narrow = study.settings.get("narrow", {})
    n_tried += round(n_labelled * float(narrow.get("share", 1))) if narrow else 0
    # of all scans, of three kinds of channels, and with few calibration lines
    n_strata = 4 * len(study.accelerations) + len(narrow.get("accelerations", ()))
    n_descents = n_strata * setting("population", "n_passes", population.Config)
    n_descents *= 1 + setting("population", "n_perturbed", population.Config)
    per_line = (
        setting("population", "n_screen", population.Config)
        * (
            costs.gradient
            + setting("population", "shortlist", population.Config) * costs.evaluation
        )
        + 0.4 * setting("population", "n_scans", population.Config) * costs.evaluation
    )
    n_post = 6 + 3 * len(study.folds)
    n_tested = sum(study.n_scans(c) for f in study.folds.values() for c in f.test)
    steps = [
        ("modl", setting("modl", "n_steps", train_recon.Config), costs.modl_step),
        ("unet", setting("unet", "n_steps", train_recon.Config), costs.unet_step),
        ("mnet", 2 * setting("mnet", "n_steps", alternate.Config), costs.unet_step),
        ("loupe", setting("loupe", "n_steps", loupe.Config), costs.unet_step),
        ("post", n_post * setting("post", "n_steps", train_recon.Config), costs.modl_step),
    ]
    rows = [("scans", f"{n_scans} scans x {costs.scan:.2f} s", n_scans * costs.scan)]
    rows += [(name, f"{n} steps x {cost:.3f} s", n * cost) for name, n, cost in steps]
    rows += [
        (
            "population",
            f"{n_descents} passes x about {N_LINES} lines x {per_line:.1f} s",
            n_descents * N_LINES * per_line,
        ),
        ("icd", f"{n_icd:.0f} scans x {per_icd:.1f} s", n_icd * per_icd),
        (
            "labels",
            f"{n_tried} scans x {n_masks} masks x {costs.evaluation:.3f} s, blocks of {BLOCK}",
            n_tried * n_masks * costs.evaluation,
        ),
        ("table", f"{n_tested} scans x 20 rows x {costs.image:.2f} s", n_tested * 20 * costs.image),
    ]
    return [(name, what, total / 60) for name, what, total in rows]


def print_forecast(study: Study) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    found = forecast(study, measure(study))
    for name, what, minutes in found:
        print(f"{name:12} {what:58} {minutes:7.1f} min")
    total = sum(minutes for *_, minutes in found)
    workers = f"on {study.n_workers} workers about {total / study.n_workers:.0f}"
    print(f"{'in all':12} {'one thread each':58} {total:7.1f} min, {workers}")
