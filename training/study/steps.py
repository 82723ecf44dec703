"""The steps from data to trained networks. Each makes files and skips those that are there.

What is there must follow from the same settings: weights keep theirs on their card, labels and
masks in their files, and a difference is an error that names it, never a silent reuse.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mnet.masks.family import Vetted
from mnet.masks.line_plan import Bool, LinePlan
from mnet.masks.patterns import Pattern
from mnet.weight_files import read_card
from training.config import made
from training.data.corpus import load, scan_path
from training.data.mask_file import is_written, read_masks, write_masks
from training.fit import alternate, loupe, train_recon, train_select
from training.masks import labels, population
from training.masks.samplers import Population, medoids
from training.parallel import spread
from training.study.study import Slices, Study

# what of a configuration says where things lie rather than what is learned
PLACES = frozenset(
    {"scans", "run", "out", "weights", "labels", "masks", "mask_cohorts", "patterns", "start"}
    | {"reconstructor", "n_workers", "device", "parts"}
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Task:
    """Something to run, and the file that is there when it has run."""

    run: Callable[[], Any]
    output: Path

    def __repr__(self) -> str:
        return f"making {self.output}"


def run_all(study: Study, tasks: Sequence[Task], name: str) -> None:
    """Run what is not done, several at once."""
    backend = "processes" if study.n_workers > 1 else "inline"
    spread(_run, tasks, done=_done, n_workers=study.n_workers, backend=backend, name=name)


def _run(task: Task) -> None:
    task.run()


def _done(task: Task) -> bool:
    return task.output.exists()


def trained(trainer: ModuleType, study: Study, step: str, values: Mapping[str, Any]) -> Task:
    """Return the task of a run of a module's `train` with the study's settings for `step`.

    Raises
    ------
    ValueError
        If the weights are there but follow from other settings.
    """
    given = {**values, **study.settings.get(step, {})}
    config = made(trainer.Config, f"study {study.name}, {step}", given)
    path = Path(config.weights)
    if path.with_suffix(".json").exists():
        refuse_other(path, read_card(str(path.resolve()))["training"], asdict(config))
    return Task(run=partial(trainer.train, config), output=path.with_suffix(".json"))


def refuse_other(path: Path, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise a ValueError if what is there was made with other settings than it would be now."""
    wanted = json.loads(json.dumps(settings))
    differing = sorted(
        f"{k}: {found.get(k)!r}, now {wanted[k]!r}"
        for k in set(wanted) - PLACES
        if found.get(k) != wanted[k]
    )
    if differing:
        raise ValueError(
            f"{path} was made with other settings ({'; '.join(differing)}): delete it or choose "
            "another folder for the study"
        )


def reconstructors(study: Study) -> None:
    """Train MoDL and the U-Net on mixed masks of the base cohorts."""
    tasks = [
        trained(train_recon, study, kind, _recon(study, kind, kind)) for kind in ("modl", "unet")
    ]
    run_all(study, tasks, "reconstructors")


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


def population_masks(study: Study) -> None:
    """Find the best fixed mask of scans of one plan at every acceleration by joint ICD."""
    tasks = []
    for acceleration in study.accelerations:
        values = {
            "scans": str(study.scans(study.population)),
            "out": str(population_path(study, acceleration)),
            "acceleration": acceleration,
            "weights": str(study.weights("modl")),
            "n_ky": getattr(study.cohorts[study.population], "reference", 0),
            "n_scans": study.n_scans(study.population) // len(study.accelerations),
            **study.settings.get("population", {}),
        }
        config = made(population.Config, f"study {study.name}, population", values)
        out = Path(config.out)
        if out.exists():
            refuse_other(out, read_masks(out).settings, asdict(config))
        tasks.append(Task(run=partial(population.run, config), output=out))
    run_all(study, tasks, "population masks")


def population_path(study: Study, acceleration: float) -> Path:
    """Return where the population masks of an acceleration lie, the best first."""
    return study.folder / "population" / f"{acceleration:g}.npz"


def reference_rows(study: Study) -> Bool:
    """Return the acquirable rows of the plans on which masks are found and compared."""
    cohort = study.cohorts[study.population]
    if isinstance(cohort, Slices):
        return population.commonest_rows(study.scans(study.population))
    return np.ones(cohort.reference, dtype=bool)


def read_population(study: Study) -> Population:
    """Return the population masks as one for every plan."""
    rows = reference_rows(study)
    found = []
    for acceleration in study.accelerations:
        best = read_masks(population_path(study, acceleration)).masks[0]
        found.append((acceleration, Pattern.of(best, LinePlan.of(rows, acceleration))))
    return Population(patterns=tuple(found))


def labelled(study: Study) -> tuple[str, ...]:
    """Return the cohorts that samplers learn from or are settled on."""
    folds = study.folds.values()
    return tuple(dict.fromkeys(c for f in folds for c in (*f.train, *f.validation)))


def icd_labels(study: Study) -> None:
    """Find ICD masks, from the population mask, for MoDL on all cohorts and the U-Net on base."""
    for cohort in labelled(study):
        _label(study, "icd", cohort, "modl", Vetted(), {})
    for cohort in study.base:
        _label(study, "icd_unet", cohort, "unet", Vetted(), {})


def _label(
    study: Study,
    kind: str,
    cohort: str,
    weights: str,
    dictionary: Vetted,
    values: Mapping[str, Any],
) -> None:
    given = dict(study.settings.get(kind, {}))
    share = given.pop("share", 1.0)  # of the scans of every cohort, from the first on
    settings = {
        "scans": str(study.scans(cohort)),
        "labels": str(study.labels(kind) / cohort),
        "n_scans": round(share * study.n_scans(cohort)),
        "weights": str(study.weights(weights)),
        "n_workers": study.n_workers,
        "backend": "processes" if study.n_workers > 1 else "inline",
        **values,
        **given,
    }
    config = made(labels.Config, f"study {study.name}, {kind}", settings)
    labels.label_cohort(config, dictionary, read_population(study))


def vetted(study: Study) -> None:
    """Choose the masks beside the family: population masks, and medoids of base ICD masks."""
    path = vetted_path(study)
    if path.exists():
        return
    n = int(study.settings.get("vetted", {}).get("n_medoids", 6))
    chosen = [
        {"name": f"population, {a:g}x", "pattern": pattern.to_json()}
        for a, pattern in read_population(study).patterns
    ]
    for acceleration in study.accelerations:
        found: list[tuple[str, Pattern]] = []
        for cohort in study.base:
            read = labels.read_labels(study.labels("icd") / cohort)
            for i, (number, mask) in enumerate(read.masks.items()):
                plan = load(scan_path(study.scans(cohort), number)).plan()
                if read.arrays["has_icd"][i] and read.arrays["acceleration"][i] == acceleration:
                    found.append((f"ICD, {cohort} {number}", Pattern.of(mask, plan)))
        plan = LinePlan.of(reference_rows(study), acceleration)
        for i in medoids([pattern for _, pattern in found], plan, n) if found else []:
            name = f"{found[i][0]}, {acceleration:g}x"
            chosen.append({"name": name, "pattern": found[i][1].to_json()})
    path.write_text(json.dumps(chosen, indent=1) + "\n")


def vetted_path(study: Study) -> Path:
    """Return where the vetted masks lie."""
    return study.folder / "vetted.json"


def read_vetted(study: Study) -> Vetted:
    """Return the vetted masks for any plan."""
    content = json.loads(vetted_path(study).read_text())
    return Vetted(patterns=tuple(Pattern.from_json(entry["pattern"]) for entry in content))


def select_labels(study: Study) -> None:
    """Try every vetted mask on every scan that a sampler learns from."""
    for cohort in labelled(study):
        _label(study, "labels", cohort, "modl", read_vetted(study), {"icd_every": 0})


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
                "validation": fold.validation,
                "parts": study.data(fold.train),
                "reconstructor": str(study.weights("modl")),
                "weights": str(study.weights(f"mnet_select@{name}")),
            },
        )
        for name, fold in study.folds.items()
    ]
    run_all(study, tasks, "MNet-select")


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
    run_all(study, [task], "U-Net on ICD masks")


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
    run_all(study, tasks, "MNet and LOUPE")
