"""The labels of a study: ICD masks of scans, the vetted masks, and what these lose on scans."""

import json
from typing import Any

from mnet.masks.family import FAMILY, VettedMasks
from training.config import made
from training.data.mask_file import is_written, write_masks
from training.masks import labels
from training.masks.labels import Start
from training.masks.vetting import vet
from training.study.fixed_masks import (
    candidates,
    learned,
    masks_of,
    read_population,
    read_vetted,
    vetted_path,
)
from training.study.sampler_masks import best_single
from training.study.study import Study, narrowed


def labelled(study: Study) -> tuple[str, ...]:
    """Return the cohorts that samplers learn from or are settled on."""
    folds = study.folds.values()
    return tuple(dict.fromkeys(c for f in folds for c in (*f.train, *f.validation)))


def icd_labels(study: Study) -> None:
    """Find ICD masks, from each scan's best of the family and the population masks.

    For MoDL on all cohorts, for the U-Net on base.
    """
    start, masks = read_population(study), masks_of(learned(study))
    for cohort in labelled(study):
        _label(study, "icd", cohort, "modl", masks, start)
    for cohort in study.base:
        _label(study, "icd_unet", cohort, "unet", masks, start)


def vetted(study: Study) -> None:
    """Choose the masks beside the family by what they lose on varied scans.

    These are base scans and, of the same weight, the measured ones; no other cohort, because each
    is tested in some fold.
    """
    path = vetted_path(study)
    entries, start = candidates(study), read_population(study)
    cohorts = (*study.base, *study.measured_cohorts)
    for cohort in cohorts:
        share = {} if cohort in study.base else {"share": 1.0}
        masks = masks_of(entries)
        _label(study, "candidates", cohort, "modl", masks, start, icd_every=0, **share)
    if path.exists():
        return
    found = [labels.read_labels(study.labels("candidates") / cohort) for cohort in cohorts]
    losses = [of.arrays["dictionary_loss"].astype(float) for of in found]
    n = int(study.settings.get("vetted", {}).get("n_masks", 10))
    chosen = [entries[i - len(FAMILY)] for i in vet(losses, len(FAMILY), n)]
    path.write_text(json.dumps(chosen, indent=1) + "\n")


def select_labels(study: Study) -> None:
    """Try every vetted mask on every scan that a sampler learns from, or is settled on."""
    masks, start = read_vetted(study), read_population(study)
    for cohort in labelled(study):
        _label(study, "labels", cohort, "modl", masks, start, icd_every=0)
    for cohort in study.measured_cohorts:
        _label(study, "labels", cohort, "modl", masks, start, icd_every=0, share=1.0)
    if narrow := study.settings.get("narrow"):
        few = {"n_calibration": narrow["n_calibration"], "icd_every": 0}
        for cohort in labelled(study):
            share = {"share": narrow.get("share", 1.0)}
            _label(study, "labels", cohort, "modl", masks, start, narrowed(cohort), **few, **share)
        for cohort in study.measured_cohorts:
            whole = {"share": 1.0}
            _label(study, "labels", cohort, "modl", masks, start, narrowed(cohort), **few, **whole)


def oracle(study: Study) -> None:
    """Find the ICD masks of the test scans themselves, from each one's best vetted mask."""
    start, masks = best_single(study, study.complete), read_vetted(study)
    for cohort in study.folds[study.complete].test:
        _label(study, "oracle", cohort, "modl", masks, start, icd_every=1)
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
    name: str = "",
    **values: Any,
) -> None:
    """Label a cohort, under another name where that is given."""
    given = dict(study.settings.get(kind, {})) | values
    share = given.pop("share", 1.0)  # of the scans of every cohort, from the first on
    settings = {
        "scans": str(study.scans(cohort)),
        "labels": str(study.labels(kind) / (name or cohort)),
        "n_scans": round(share * study.n_scans(cohort)),
        "weights": str(study.weights(weights)),
        "n_workers": study.n_workers,
        "backend": study.backend,
        **given,
    }
    config = made(labels.Config, f"study {study.name}, {kind}", settings)
    labels.label_cohort(config, dictionary, start)
