"""The steps from trained networks to the table and the packaged weights."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnet.masks.line_plan import Bool, LinePlan
from mnet.sampler.mnet_select import MNetSelect
from mnet.weight_files import load_weights, read_card
from training import evaluate
from training.config import made
from training.data.corpus import Sample, load, scan_path
from training.data.mask_file import is_written, read_masks, write_masks
from training.fit import train_recon
from training.fit.train_recon import cohort_files
from training.masks import labels
from training.masks.loupe_mask import load_mask
from training.masks.nearest import Nearest
from training.masks.samplers import SIMPLE, Sampler, fixed, masks_of, network, shuffled
from training.study.steps import Task, read_population, run_all, trained
from training.study.study import Study
from training.table.spec import read_table

EVERYWHERE = ("uniform_random", "variable_density", "population", "loupe")  # the same in all folds
BY_FOLD = ("best_single", "suno_nn", "mnet_select")  # learned on the cohorts of a fold
ONCE = ("mnet", "mnet_fixed_unet")  # in the complete fold
PLAIN = ("equispaced", "low_pass")
POST_TRAINED = (*EVERYWHERE, *BY_FOLD, *ONCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestSingle:
    """The best fixed mask of a fold's training scans, for any plan."""

    weights: str  # of its MNet-select, whose table says which it is

    def __call__(self, plan: LinePlan) -> Bool:
        """Return the mask (n,)."""
        return _select(self.weights).population(plan)


@lru_cache(maxsize=8)
def _select(weights: str) -> MNetSelect:
    model = load_weights(weights)[0]
    if not isinstance(model, MNetSelect):
        raise TypeError(f"{weights} are a {type(model).__name__}'s, expected MNetSelect's")
    return model


def best_single(study: Study, fold: str) -> BestSingle:
    """Return the best fixed mask of a fold."""
    return BestSingle(weights=str(study.weights(f"mnet_select@{fold}").resolve()))


def sampler_for(study: Study, name: str, fold: str) -> Sampler:
    """Return a sampler of a fold."""
    if name in SIMPLE:
        return SIMPLE[name]
    if name == "population":
        return fixed(read_population(study))
    if name == "best_single":
        return fixed(best_single(study, fold))
    if name == "suno_nn":
        return _nearest(study, fold)
    if name == "loupe":
        return fixed(load_mask(study.weights("loupe")).mask)
    return network(load_weights(str(_own_weights(study, name, fold)))[0].eval())


def follows_from(study: Study, name: str, fold: str) -> str:
    """Return what tells masks of a sampler from those of the same one made otherwise."""
    if name in SIMPLE:
        return name
    if name in ("population", "best_single"):
        masks = read_population(study) if name == "population" else best_single(study, fold)
        return labels.plan_digest(lambda plan: (masks(plan),))
    if name == "suno_nn":
        folders = (study.labels("icd") / cohort for cohort in study.folds[fold].train)
        return ", ".join(labels.read_labels(folder).digest for folder in folders)
    if name == "loupe":
        return hashlib.sha256(
            study.weights("loupe").with_suffix(".safetensors").read_bytes()
        ).hexdigest()
    return str(read_card(str(_own_weights(study, name, fold)))["sha256"])


def _own_weights(study: Study, name: str, fold: str) -> Path:
    return study.weights(f"{name}@{fold}" if name in BY_FOLD else name).resolve()


def _nearest(study: Study, fold: str) -> Sampler:
    """SUNO's neighbour among the ICD masks of a fold's training scans; never the scan itself."""
    examples, names = [], []
    for cohort in study.folds[fold].train:
        found = labels.read_labels(study.labels("icd") / cohort)
        for has, (number, mask) in zip(found.arrays["has_icd"], found.masks.items(), strict=True):
            if has:
                sample = load(scan_path(study.scans(cohort), number))
                examples.append((sample, mask))
                names.append(_fingerprint(sample))
    nearest = Nearest(examples)

    def choose(sample: Sample, rng: np.random.Generator) -> Bool:
        own = _fingerprint(sample)
        return nearest(sample, exclude=lambda number: names[number] == own)

    return choose


def _fingerprint(sample: Sample) -> bytes:
    """Tell scans apart by their central line; the outermost may be padding, zero in all of them."""
    return bytes(sample.kspace[..., sample.kspace.shape[-1] // 2].numpy().tobytes())


def mask_steps(study: Study) -> None:
    """Write every sampler's masks of the test scans, and of base scans to post-train on.

    Raises
    ------
    ValueError
        If masks are there that a sampler made which is not the one of now.
    """
    tasks: dict[Path, Task] = {}
    for fold, content in study.folds.items():
        names = [*EVERYWHERE, *PLAIN, *BY_FOLD, *(ONCE if fold == study.complete else ())]
        for name in names:
            made_by = follows_from(study, name, fold)
            targets = [(study.masks(name), cohort) for cohort in content.test]
            if name in POST_TRAINED:
                targets += [(_training_masks(study, name, fold), cohort) for cohort in study.base]
            for folder, cohort in targets:
                path = folder / f"{cohort}.npz"
                settings = {"cohort": cohort, "sampler": name, "from": made_by}
                is_written(path, settings)  # refuses one of another sampler
                run = partial(write_for, study, name, fold, path, settings)
                tasks[path] = Task(run=run, output=path)
    run_all(study, list(tasks.values()), "masks")
    for content in study.folds.values():
        for cohort in content.test:
            _write_shuffled(study, cohort)


def _training_masks(study: Study, name: str, fold: str) -> Path:
    return study.masks(f"{name}@{fold}" if name in BY_FOLD else f"{name}@all")


def write_for(study: Study, name: str, fold: str, path: Path, settings: dict[str, str]) -> None:
    """Write a sampler's masks of one cohort."""
    cohort = settings["cohort"]
    sampler = sampler_for(study, name, fold)
    files = cohort_files(study.scans(cohort))
    write_masks(path, masks_of(sampler, files, cohort, f"{name}, {cohort}"), settings)


def _write_shuffled(study: Study, cohort: str) -> None:
    path = study.masks("shuffled") / f"{cohort}.npz"
    source = read_masks(study.masks("mnet_select") / f"{cohort}.npz")
    settings = {"cohort": cohort, "shuffled": source.digest}
    if is_written(path, settings):
        return
    plans = [load(file).plan() for file in cohort_files(study.scans(cohort))]
    write_masks(path, shuffled(source.masks, plans), settings)


def oracle(study: Study) -> None:
    """Find the ICD masks of the test scans themselves, from the best fixed mask."""
    start = best_single(study, study.complete)
    for cohort in study.folds[study.complete].test:
        settings = {
            "scans": str(study.scans(cohort)),
            "labels": str(study.labels("oracle") / cohort),
            "n_scans": study.n_scans(cohort),
            "weights": str(study.weights("modl")),
            "n_workers": study.n_workers,
            "backend": "processes" if study.n_workers > 1 else "inline",
            "icd_every": 1,
            **study.settings.get("oracle", {}),
        }
        config = made(labels.Config, f"study {study.name}, oracle", settings)
        labels.label_cohort(config, start=start)
        path = study.masks("icd_oracle") / f"{cohort}.npz"
        found = labels.read_labels(study.labels("oracle") / cohort)
        made_from = {"cohort": cohort, "labels": found.digest}
        if not is_written(path, made_from):
            write_masks(path, found.masks, made_from)


def post_training(study: Study) -> None:
    """Train MoDL further on the masks of every learned row, equally long for each.

    Raises
    ------
    ValueError
        If weights are there that were trained on other masks, or with other settings.
    """
    runs = [(name, name, study.complete) for name in (*EVERYWHERE, *ONCE)]
    runs += [(f"{name}@{fold}", name, fold) for fold in study.folds for name in BY_FOLD]
    tasks = []
    for name, sampler, fold in runs:
        folder = _training_masks(study, sampler, fold)
        settings = {
            "scans": str(study.folder / "scans"),
            "cohorts": study.base,
            "parts": study.data(study.base),
            "run": str(study.folder / "runs" / f"modl+{name}"),
            "weights": str(study.weights(f"modl+{name}")),
            "masks": str(folder),
            "start": str(study.weights("modl").resolve()),
        }
        task = trained(train_recon, study, "post", settings)
        if task.output.exists():
            now = train_recon.mask_digests(folder, study.base)
            found = read_card(str(task.output.with_suffix("").resolve())).get("masks")
            if found != now:
                raise ValueError(
                    f"{task.output} was trained on masks {found}, expected {now}: delete it"
                )
        tasks.append(task)
    run_all(study, tasks, "post-training")


def table(study: Study) -> None:
    """Write the list of rows, score them and write table, figures and page."""
    spec = study.folder / "table.json"
    spec.write_text(json.dumps(table_content(study), indent=1) + "\n")
    evaluate.evaluate_study(read_table(spec), study.folder, torch.device("cpu"))


def table_content(study: Study) -> dict[str, Any]:
    """Return the rows of the table and the scans they are tested on."""
    once = {"folds": [study.complete]}
    rows: list[dict[str, Any]] = []

    def add(sampler: str, reconstructor: str, weights: str = "", **more: Any) -> None:
        row = {"sampler": sampler, "reconstructor": reconstructor, "masks": f"masks/{sampler}"}
        rows.append(row | ({"weights": weights} if weights else {}) | more)

    for name in (*EVERYWHERE, *BY_FOLD):
        add(name, "modl", "weights/modl")
        own = f"weights/modl+{name}@{{fold}}" if name in BY_FOLD else f"weights/modl+{name}"
        add(name, "modl", own, post_trained=True)
    for name in (*ONCE, *PLAIN, "shuffled", "icd_oracle"):
        add(name, "modl", "weights/modl", **once)
    for name in ONCE:
        add(name, "modl", f"weights/modl+{name}", post_trained=True, **once)
    if study.kspace is None:  # the noise of a measurement cannot be drawn anew
        for name in ("icd_oracle", "best_single", "mnet_select"):
            add(name, "modl", "weights/modl", noise="redrawn", **once)
    for name in ("uniform_random", "variable_density", "best_single", "mnet_select"):
        add(name, "unet", "weights/unet", **once)
    add("mnet", "unet", "weights/unet+mnet", post_trained=True, **once)
    add("mnet_fixed_unet", "unet", "weights/unet+icd", post_trained=True, **once)
    add("loupe", "unet", "weights/unet+loupe", post_trained=True, **once)
    for method in ("cg_sense", "zero_filled"):
        for name in ("uniform_random", "best_single", "mnet_select"):
            add(name, method, **once)
    tested = []
    for fold, content in study.folds.items():
        for cohort in content.test:
            tested.append(
                {
                    "name": cohort,
                    "subject": study.subject(cohort),
                    "fold": fold,
                    "held_out": study.held_out(fold, cohort),
                }
            )
    return {"deployed": "mnet_select", "cohorts": tested, "rows": rows}


def package(study: Study) -> None:
    """Put the deployed weights where the gadgets load them from.

    The card of the deployed MoDL gets what it started from and what the table found.
    """
    if study.package is None:
        return
    recon = f"modl+mnet_select@{study.deployed}"
    for name, source in (
        ("mnet_select", f"mnet_select@{study.deployed}"),
        ("mnet", "mnet"),
        ("modl", recon),
    ):
        path = study.weights(source)
        shutil.copyfile(
            path.with_name(source + ".safetensors"), study.package / f"{name}.safetensors"
        )
        card = json.loads(path.with_name(source + ".json").read_text())
        if source == recon:
            start = read_card(str(study.weights("modl").resolve()))
            card["validation"] = {
                "on mixed masks, before the masks of MNet-select": start["validation"],
                "NRMSE on test scans, masks of MNet-select": deployed_figures(study),
            }
        (study.package / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")


def deployed_figures(study: Study) -> dict[str, float]:
    """Return the mean NRMSE of the deployed pair in the table, by cohort and acceleration."""
    rows = json.loads((study.folder / "table" / "table.json").read_text())["folds"]
    return {
        f"{row['cohorts'][0]}, {row['acceleration']:g}x": round(row["nrmse"], 4)
        for row in rows
        if row["sampler"] == "mnet_select"
        and row["reconstructor"] == "modl"
        and row["post_trained"]
        and row["fold"] == study.deployed
    }
