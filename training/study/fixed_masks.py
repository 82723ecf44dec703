"""The fixed masks of a study: population masks of strata, and those that are candidates."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mnet.masks.family import VettedMasks
from mnet.masks.line_plan import Bool, LinePlan
from mnet.masks.patterns import Pattern
from mnet.masks.strata import Channels, Stratum
from training.config import made, told
from training.data.corpus import load, scan_path
from training.data.mask_file import read_masks
from training.masks import labels, population
from training.masks.samplers import Population, medoids
from training.parallel import Task
from training.study.study import Slices, Study
from training.study.tasks import refuse_other, run_tasks

N_LEAST = 8  # scans that a stratum of its own must have
Entry = dict[str, Any]  # name and pattern of a mask, in JSON's types


def strata(study: Study) -> list[Stratum]:
    """Return the strata that have a population mask: at every acceleration that of all scans first.

    Kinds of channels have their own where the cohort holds enough; so have few calibration lines,
    at the accelerations where these are taken.
    """
    shapes = population.shapes(study.scans(study.population)).values()
    found = [Stratum(acceleration=a) for a in study.accelerations]
    for acceleration in study.accelerations:
        for kind in get_args(Channels):
            stratum = Stratum(acceleration=acceleration, channels=kind)
            if sum(stratum.holds(n, a) for n, _, a in shapes) >= N_LEAST:
                found.append(stratum)
    if narrow := study.settings.get("narrow"):
        for acceleration in narrow["accelerations"]:
            found.append(Stratum(acceleration=acceleration, n_calibration=narrow["n_calibration"]))
    return found


def population_masks(study: Study) -> None:
    """Find the best fixed mask of every stratum by joint ICD on scans of many sizes."""
    tasks = []
    reference = int(reference_rows(study).sum())
    for stratum in strata(study):
        values = {
            "scans": str(study.scans(study.population)),
            "out": str(population_path(study, stratum)),
            "acceleration": stratum.acceleration,
            "channels": stratum.channels,
            "n_calibration": stratum.n_calibration,
            "reference": reference,
            "weights": str(study.weights("modl")),
            **study.settings.get("population", {}),
        }
        config = made(population.Config, f"study {study.name}, population", values)
        out = Path(config.out)
        if out.exists():
            refuse_other(out, read_masks(out).settings, told(config))
        tasks.append(Task(run=partial(population.run, config), output=out))
    run_tasks(study, tasks, "population masks")


def population_path(study: Study, stratum: Stratum) -> Path:
    """Return where the population masks of a stratum lie, the best first."""
    parts = [f"{stratum.acceleration:g}", stratum.channels]
    parts += [f"{stratum.n_calibration}-lines"] if stratum.n_calibration else []
    return study.folder / "population" / f"{'-'.join(filter(None, parts))}.npz"


def reference_rows(study: Study) -> Bool:
    """Return the acquirable rows of the plans on which masks are found and compared."""
    cohort = study.cohorts[study.population]
    if isinstance(cohort, Slices):
        return population.commonest_rows(study.scans(study.population))
    return np.ones(cohort.reference, dtype=bool)


def population_patterns(study: Study) -> dict[Stratum, Pattern]:
    """Return the best mask of every stratum."""
    n_rows = int(reference_rows(study).sum())
    return {
        stratum: Pattern.of(
            read_masks(population_path(study, stratum)).masks[0],
            population.reference_plan(n_rows, stratum),
        )
        for stratum in strata(study)
    }


def read_population(study: Study) -> Population:
    """Return the population masks of all scans as one for every plan."""
    found = population_patterns(study)
    return Population(
        patterns=tuple((a, found[Stratum(acceleration=a)]) for a in study.accelerations)
    )


def learned(study: Study) -> list[Entry]:
    """Return the population masks of all strata, named."""
    return [
        {"name": f"population, {stratum.name}", "pattern": pattern.to_json()}
        for stratum, pattern in population_patterns(study).items()
    ]


def candidates(study: Study) -> list[Entry]:
    """Return the masks that are vetted beside the family: learned ones, medoids of ICD masks."""
    path = study.folder / "candidates.json"
    if not path.exists():
        n = int(study.settings.get("vetted", {}).get("n_medoids", 6))
        found = learned(study)
        for acceleration in study.accelerations:
            found += _medoids(study, acceleration, n)
        path.write_text(json.dumps(found, indent=1) + "\n")
    entries: list[Entry] = json.loads(path.read_text())
    return entries


def _medoids(study: Study, acceleration: float, n: int) -> list[Entry]:
    """Return the ICD masks of base scans that stand for all others at an acceleration."""
    found: list[tuple[str, Pattern]] = []
    for cohort in study.base:
        read = labels.read_labels(study.labels("icd") / cohort)
        for i, (number, mask) in enumerate(read.masks.items()):
            if read.arrays["has_icd"][i] and read.arrays["acceleration"][i] == acceleration:
                plan = load(scan_path(study.scans(cohort), number)).plan()
                found.append((f"ICD, {cohort} {number}", Pattern.of(mask, plan)))
    plan = LinePlan.of(reference_rows(study), acceleration)
    chosen = medoids([pattern for _, pattern in found], plan, n) if found else []
    return [
        {"name": f"{found[i][0]}, {acceleration:g}x", "pattern": found[i][1].to_json()}
        for i in chosen
    ]


def vetted_path(study: Study) -> Path:
    """Return where the vetted masks lie."""
    return study.folder / "vetted.json"


def read_vetted(study: Study) -> VettedMasks:
    """Return the vetted masks for any plan."""
    return masks_of(json.loads(vetted_path(study).read_text()))


def masks_of(entries: Sequence[Entry]) -> VettedMasks:
    """Return named masks, behind the family, for any plan."""
    return VettedMasks(patterns=tuple(Pattern.from_json(entry["pattern"]) for entry in entries))
