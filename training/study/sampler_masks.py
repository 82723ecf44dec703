"""Whose masks the table compares, and the masks of every one of them."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from mnet.masks.line_plan import Bool, LinePlan
from mnet.sampler.mnet_select import MNetSelect
from mnet.weight_files import load_weights, read_card
from training.data.corpus import Sample, cohort_files, load, scan_path
from training.data.mask_file import is_written, read_masks, write_masks
from training.masks import labels
from training.masks.loupe_mask import load_mask
from training.masks.nearest import Nearest
from training.masks.samplers import SIMPLE, Sampler, fixed, masks_of, network, shuffled
from training.parallel import Task
from training.study.fixed_masks import read_population
from training.study.study import Study
from training.study.tasks import run_tasks

EVERYWHERE = ("uniform_random", "variable_density", "population", "loupe")  # the same in all folds
BY_FOLD = ("best_single", "suno_nn", "mnet_select")  # learned on the cohorts of a fold
GATED = ("mnet_experts",)  # as these, but MoDL is not trained further on their masks
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
    by_fold = name in (*BY_FOLD, *GATED)
    return study.weights(f"{name}@{fold}" if by_fold else name).resolve()


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
        names = [*EVERYWHERE, *PLAIN, *BY_FOLD, *GATED, *(ONCE if fold == study.complete else ())]
        for name in names:
            made_by = follows_from(study, name, fold)
            targets = [(study.masks(name), cohort) for cohort in content.test]
            if name in POST_TRAINED:
                targets += [(training_masks(study, name, fold), cohort) for cohort in study.base]
            for folder, cohort in targets:
                path = folder / f"{cohort}.npz"
                settings = {"cohort": cohort, "sampler": name, "from": made_by}
                is_written(path, settings)  # refuses one of another sampler
                run = partial(write_for, study, name, fold, path, settings)
                tasks[path] = Task(run=run, output=path)
    run_tasks(study, list(tasks.values()), "masks")
    for content in study.folds.values():
        for cohort in content.test:
            _write_shuffled(study, cohort)


def training_masks(study: Study, name: str, fold: str) -> Path:
    """Return the folder of the masks of base scans that MoDL is post-trained on."""
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
