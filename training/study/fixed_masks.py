"""The fixed masks of a study: population masks, and the vetted ones beside the family."""

import json
from functools import partial
from pathlib import Path

import numpy as np

from mnet.masks.family import VettedMasks
from mnet.masks.line_plan import Bool, LinePlan
from mnet.masks.patterns import Pattern
from training.config import made, told
from training.data.corpus import load, scan_path
from training.data.mask_file import read_masks
from training.masks import labels, population
from training.masks.samplers import Population, medoids
from training.parallel import Task
from training.study.study import Slices, Study
from training.study.tasks import refuse_other, run_tasks


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
            refuse_other(out, read_masks(out).settings, told(config))
        tasks.append(Task(run=partial(population.run, config), output=out))
    run_tasks(study, tasks, "population masks")


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


def read_vetted(study: Study) -> VettedMasks:
    """Return the vetted masks for any plan."""
    content = json.loads(vetted_path(study).read_text())
    return VettedMasks(patterns=tuple(Pattern.from_json(entry["pattern"]) for entry in content))
