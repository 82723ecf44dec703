"""A study: the one configuration from data to table.

Cohorts of scans, which of them make the parts that all folds share (`base`), which subject every
fold holds out, and the settings of every step where they differ from the step's defaults. Subjects
are kept apart here: no fold is tested or validated on a subject that anything it uses was trained
on. Only parts that say which slices they take may share a subject: the one knee there is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.config import made
from training.corpus import Cohort
from training.images import SOURCES, subjects


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Which cohorts a fold tests on, settles its last choices on, and trains samplers on."""

    test: tuple[str, ...]
    validation: tuple[str, ...]
    train: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Everything that a run of the pipeline follows from."""

    name: str
    folder: Path  # of everything that is made
    images: Path | None = None  # magnitude volumes to simulate from, or
    kspace: Path | None = None  # fully sampled k-space files
    phantoms: tuple[str, ...] = ()  # volumes to make in `images`, for a run without data
    cohorts: Mapping[str, Cohort]
    base: tuple[str, ...]  # train reconstructors, vetted masks and LOUPE
    population: str  # cohort of equal plans for the joint search, of subjects of the base
    folds: Mapping[str, Fold]
    complete: str  # the fold that has all rows
    deployed: str  # the fold whose sampler is packaged
    accelerations: tuple[float, ...] = (4.0, 8.0)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by step
    n_workers: int = 2
    package: Path | None = None  # where the deployed weights go

    def __post_init__(self) -> None:
        for name in (self.complete, self.deployed):
            if name not in self.folds:
                raise ValueError(f"no fold {name!r}, there are {sorted(self.folds)}")
        for name, fold in self.folds.items():
            known = [*self.base, self.population, *fold.train]
            self._check_apart(f"fold {name}: test", fold.test, [*known, *fold.validation])
            self._check_apart(f"fold {name}: validation", fold.validation, known)

    def parts(self, cohorts: Sequence[str]) -> tuple[str, ...]:
        """Return the image parts of some cohorts, each once."""
        unknown = sorted(set(cohorts) - set(self.cohorts))
        if unknown:
            raise ValueError(f"no cohort {', '.join(unknown)}; there are {sorted(self.cohorts)}")
        return tuple(dict.fromkeys(p for c in cohorts for p in self.cohorts[c].parts))

    def scans(self, cohort: str) -> Path:
        """Return the folder of a cohort's scans."""
        return self.folder / "scans" / cohort

    def weights(self, name: str) -> Path:
        """Return where weights lie, without suffix."""
        return self.folder / "weights" / name

    def masks(self, sampler: str) -> Path:
        """Return the folder of a sampler's masks."""
        return self.folder / "masks" / sampler

    def labels(self, kind: str) -> Path:
        """Return the folder of a kind of labels."""
        return self.folder / "labels" / kind

    def _check_apart(self, what: str, held_out: Sequence[str], known: Sequence[str]) -> None:
        theirs, ours = self.parts(held_out), self.parts(known)
        same = set(theirs) & set(ours)
        apart = {source.part for source in SOURCES if source.slices is not None}
        shared = subjects([p for p in theirs if p not in apart]) & subjects(ours)
        shared |= subjects(theirs) & subjects([p for p in ours if p not in apart])
        if same or shared:
            raise ValueError(
                f"{what} shares {', '.join(sorted(same | shared))} with what it is trained on"
            )


def read_study(path: Path) -> Study:
    """Read a study from JSON.

    Raises
    ------
    ValueError
        If a key is unknown or missing, or if a split shares a subject.
    """
    content = json.loads(path.read_text())
    content["cohorts"] = {
        name: made(Cohort, f"{path}: cohort {name}", values)
        for name, values in content.get("cohorts", {}).items()
    }
    content["folds"] = {
        name: made(Fold, f"{path}: fold {name}", values)
        for name, values in content.get("folds", {}).items()
    }
    for name in ("folder", "images", "kspace", "package"):
        if content.get(name) is not None:
            content[name] = Path(content[name])
    return made(Study, str(path), content)
