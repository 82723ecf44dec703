"""Every network that a study trains, each of which is skipped if its weights are there.

Weights keep their settings on their card: a difference is an error that names it, never a silent
reuse.
"""

from typing import Any

from mnet.weight_files import read_card
from training.data.mask_file import is_written, write_masks
from training.data.sources import sources_of
from training.fit import alternate, loupe, train_experts, train_recon, train_select
from training.guard import train_guard
from training.masks import labels
from training.study.fixed_masks import vetted_path
from training.study.sampler_masks import BY_FOLD, EVERYWHERE, ONCE, training_masks
from training.study.study import Study, narrowed
from training.study.tasks import run_tasks, trained


def reconstructors(study: Study) -> None:
    """Train MoDL and the U-Net on mixed masks of the base cohorts."""
    tasks = [
        trained(train_recon, study, kind, _recon(study, kind, kind)) for kind in ("modl", "unet")
    ]
    run_tasks(study, tasks, "reconstructors")


def _recon(study: Study, kind: str, name: str) -> dict[str, Any]:
    held_out = {c for fold in study.folds.values() for c in fold.validation}
    return {
        "scans": str(study.folder / "scans"),
        "cohorts": study.base,
        "validation": tuple(sorted(held_out)),
        "parts": study.data(study.base),
        "run": str(study.folder / "runs" / name),
        "weights": str(study.weights(name)),
        "kind": kind,
    }


def select(study: Study) -> None:
    """Train MNet-select in every fold."""
    tasks = [
        trained(
            train_select,
            study,
            "select",
            {
                "scans": str(study.folder / "scans"),
                "labels": str(study.labels("labels")),
                "patterns": str(vetted_path(study)),
                "cohorts": fold.train,
                "validation": (*fold.validation, *study.measured_cohorts),
                "parts": study.data(fold.train),
                "reconstructor": str(study.weights("modl")),
                "weights": str(study.weights(f"mnet_select@{name}")),
            },
        )
        for name, fold in study.folds.items()
    ]
    run_tasks(study, tasks, "MNet-select")


def experts(study: Study) -> None:
    """Choose the experts and their gate in every fold, for usual and few calibration lines."""
    tasks = []
    for name, fold in study.folds.items():
        values = {
            "labels": str(study.labels("labels")),
            "patterns": str(vetted_path(study)),
            "cohorts": _both(study, fold.train),
            "validation": _both(study, (*fold.validation, *study.measured_cohorts)),
            "parts": study.data(fold.train),
            "reconstructor": str(study.weights("modl")),
            "weights": str(study.weights(f"mnet_experts@{name}")),
        }
        tasks.append(trained(train_experts, study, "experts", values))
    run_tasks(study, tasks, "experts")


def _both(study: Study, cohorts: tuple[str, ...]) -> tuple[str, ...]:
    """Return cohorts and, where there are such labels, the same with few calibration lines."""
    few = cohorts if "narrow" in study.settings else ()
    return (*cohorts, *(narrowed(cohort) for cohort in few))


def guard(study: Study) -> None:
    """Fit the guard of every fold's samplers, without what is no patient.

    Test cohorts are there for its figures alone.
    """
    tasks = []
    for name, fold in study.folds.items():
        cohorts = tuple(cohort for cohort in fold.train if not _is_of_phantoms(study, cohort))
        values = {
            "scans": str(study.folder / "scans"),
            "cohorts": cohorts,
            "validation": fold.validation,
            "tested": fold.test,
            "parts": study.data(cohorts),
            "weights": str(study.weights(f"guard@{name}")),
        }
        tasks.append(trained(train_guard, study, "guard", values))
    run_tasks(study, tasks, "guards")


def _is_of_phantoms(study: Study, cohort: str) -> bool:
    known = [source for part in study.cohorts[cohort].parts for source in sources_of(part)]
    return any(source.anatomy == "phantom" for source in known)


def icd_unet(study: Study) -> None:
    """Train the U-Net further on ICD masks, to be the paper's fixed reconstructor."""
    for cohort in study.base:
        path = study.masks("icd_unet") / f"{cohort}.npz"
        found = labels.read_labels(study.labels("icd_unet") / cohort)
        made_from = {"cohort": cohort, "labels": found.digest}
        if is_written(path, made_from):
            continue
        has = found.arrays["has_icd"]
        kept = {n: m for (n, m), known in zip(found.masks.items(), has, strict=True) if known}
        write_masks(path, kept, made_from)
    values = {
        **_recon(study, "unet", "unet+icd"),
        "validation": (),
        "masks": str(study.masks("icd_unet")),
        "start": str(study.weights("unet")),
    }
    task = trained(train_recon, study, "unet_icd", values)
    run_tasks(study, [task], "U-Net on ICD masks")


def faithful(study: Study) -> None:
    """Train the paper's MNet, alternating with a U-Net and with a fixed one, and LOUPE."""

    def values(name: str, start: str) -> dict[str, Any]:
        return {
            "scans": str(study.folder / "scans"),
            "cohorts": study.base,
            "validation": (),
            "parts": study.data(study.base),
            "run": str(study.folder / "runs" / name),
            "weights": str(study.weights(name)),
            "start": str(study.weights(start)),
        }

    taught = {"labels": str(study.labels("icd_unet")), "patterns": str(vetted_path(study))}
    recon = {
        name: {"reconstructor": str(study.weights(f"unet+{name}"))} for name in ("mnet", "loupe")
    }
    accelerations = {"accelerations": study.accelerations}
    tasks = [
        trained(alternate, study, "mnet", values("mnet", "unet") | taught | recon["mnet"]),
        trained(
            alternate,
            study,
            "mnet_fixed_unet",
            values("mnet_fixed_unet", "unet+icd") | taught | {"fixed": True},
        ),
        trained(loupe, study, "loupe", values("loupe", "unet") | recon["loupe"] | accelerations),
    ]
    run_tasks(study, tasks, "MNet and LOUPE")


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
        folder = training_masks(study, sampler, fold)
        settings = {
            "scans": str(study.folder / "scans"),
            "cohorts": study.base,
            "parts": study.data(study.base),
            "run": str(study.folder / "runs" / f"modl+{name}"),
            "weights": str(study.weights(f"modl+{name}")),
            "masks": str(folder),
            "start": str(study.weights("modl")),
        }
        task = trained(train_recon, study, "post", settings)
        if task.output.exists():
            now = train_recon.mask_digests(folder, study.base)
            found = read_card(str(task.output.with_suffix(""))).get("masks")
            if found != now:
                raise ValueError(
                    f"{task.output} was trained on masks {found}, expected {now}: delete it"
                )
        tasks.append(task)
    run_tasks(study, tasks, "post-training")
