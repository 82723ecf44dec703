"""The labels of a study: ICD masks of scans, and what every vetted mask loses on them."""

from typing import Any

from mnet.masks.family import VettedMasks
from training.config import made
from training.data.mask_file import is_written, write_masks
from training.masks import labels
from training.masks.labels import Start
from training.study.fixed_masks import read_population, read_vetted
from training.study.sampler_masks import best_single
from training.study.study import Study


def labelled(study: Study) -> tuple[str, ...]:
    """Return the cohorts that samplers learn from or are settled on."""
    folds = study.folds.values()
    return tuple(dict.fromkeys(c for f in folds for c in (*f.train, *f.validation)))


def icd_labels(study: Study) -> None:
    """Find ICD masks, from the population mask, for MoDL on all cohorts and the U-Net on base."""
    start = read_population(study)
    for cohort in labelled(study):
        _label(study, "icd", cohort, "modl", VettedMasks(), start)
    for cohort in study.base:
        _label(study, "icd_unet", cohort, "unet", VettedMasks(), start)


def select_labels(study: Study) -> None:
    """Try every vetted mask on every scan that a sampler learns from."""
    masks, start = read_vetted(study), read_population(study)
    for cohort in labelled(study):
        _label(study, "labels", cohort, "modl", masks, start, icd_every=0)


def oracle(study: Study) -> None:
    """Find the ICD masks of the test scans themselves, from the best fixed mask."""
    start = best_single(study, study.complete)
    for cohort in study.folds[study.complete].test:
        _label(study, "oracle", cohort, "modl", VettedMasks(), start, icd_every=1)
        path = study.masks("icd_oracle") / f"{cohort}.npz"
        found = labels.read_labels(study.labels("oracle") / cohort)
        made_from = {"cohort": cohort, "labels": found.digest}
        if not is_written(path, made_from):
            write_masks(path, found.masks, made_from)


def _label(
    study: Study,
    kind: str,
    cohort: str,
    weights: str,
    dictionary: VettedMasks,
    start: Start,
    **values: Any,
) -> None:
    given = dict(study.settings.get(kind, {}))
    share = given.pop("share", 1.0)  # of the scans of every cohort, from the first on
    settings = {
        "scans": str(study.scans(cohort)),
        "labels": str(study.labels(kind) / cohort),
        "n_scans": round(share * study.n_scans(cohort)),
        "weights": str(study.weights(weights)),
        "n_workers": study.n_workers,
        "backend": study.backend,
        **values,
        **given,
    }
    config = made(labels.Config, f"study {study.name}, {kind}", settings)
    labels.label_cohort(config, dictionary, start)
