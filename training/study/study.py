"""A study: the one configuration from data to table.

Cohorts of scans, which of them make the parts that all folds share (`base`), which subject every
fold holds out, and the settings of every step where they differ from the step's defaults. Subjects
are kept apart here: no fold is tested or validated on a subject that anything it uses was trained
on. Only parts that say which slices they take may share a subject: the one knee there is.

Scans are simulated from images, or read from fully sampled k-space files, whose subjects are dealt
to parts by `split`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.config import made
from training.data import cohort_index
from training.data.corpus import Cohort
from training.data.sources import TABLE, sources, sources_of, subjects
from training.parallel import Backend

MEASURED = "measured"  # the cohort of a study's measured scans


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """A cohort of measured scans: slices of the files of some parts of the study's split."""

    parts: tuple[str, ...]
    accelerations: tuple[float, ...] = (4.0,)  # scan i has number i modulo their number
    paired: bool = False  # every slice once at each acceleration
    margins: tuple[int, int] = (10, 5)  # slices left out at the ends of a volume, as SUNO does
    step: int = 1  # every n-th slice


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
    kspace: Path | None = None  # a folder of fully sampled k-space files, and
    split: Mapping[str, float | Sequence[str]] = field(default_factory=dict)  # part: share or names
    measured: tuple[str, ...] = ()  # k-space files that choices are made on, never trained on
    phantoms: tuple[str, ...] = ()  # volumes to make in `images`, for a run without data
    cohorts: Mapping[str, Cohort | Slices]  # slices of k-space files where there are those
    base: tuple[str, ...]  # train reconstructors, vetted masks and LOUPE
    population: str  # cohort of equal plans for the joint search, of subjects of the base
    folds: Mapping[str, Fold]
    complete: str  # the fold that has all rows
    deployed: str  # the fold whose sampler is packaged
    accelerations: tuple[float, ...] = (4.0, 8.0)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by step
    n_workers: int = 2
    package: Path | None = None  # where the deployed weights go
    published: Path | None = None  # where results go that outlive the folder, as in git

    def __post_init__(self) -> None:
        if (self.images is None) == (self.kspace is None):
            raise ValueError(
                f"study {self.name}: expected either images or kspace to take scans from"
            )
        if self.kspace is not None:
            self._check_split()
        elif self.split:
            raise ValueError(f"study {self.name}: a split is of k-space files, and needs kspace")
        for name in (self.complete, self.deployed):
            if name not in self.folds:
                raise ValueError(f"no fold {name!r}, there are {sorted(self.folds)}")
        self._check_trained()
        for name, fold in self.folds.items():
            known = [*self.base, self.population, *fold.train]
            self._check_apart(f"fold {name}: test", fold.test, [*known, *fold.validation])
            self._check_apart(f"fold {name}: validation", fold.validation, known)

    @property
    def measured_cohorts(self) -> tuple[str, ...]:
        """The cohort of measured scans, if there is one: it decides, nothing learns from it."""
        return (MEASURED,) if self.measured else ()

    @property
    def all_accelerations(self) -> tuple[float, ...]:
        """The accelerations of the scans that samplers learn from, ascending."""
        return tuple(sorted({a for c in self.base for a in self.cohorts[c].accelerations}))

    @property
    def backend(self) -> Backend:
        """Where tasks run: in processes of their own, if there are several workers."""
        return "processes" if self.n_workers > 1 else "inline"

    def parts(self, cohorts: Sequence[str]) -> tuple[str, ...]:
        """Return the image parts of some cohorts, those that lend a phase among them, each once."""
        unknown = sorted(set(cohorts) - set(self.cohorts))
        if unknown:
            raise ValueError(f"no cohort {', '.join(unknown)}; there are {sorted(self.cohorts)}")
        described = [self.cohorts[cohort] for cohort in cohorts]
        return tuple(
            dict.fromkeys(p for c in described for p in (*c.parts, *getattr(c, "phases", ())))
        )

    def n_scans(self, cohort: str) -> int:
        """Return how many scans a cohort has; of measured ones its files decide, once read."""
        if cohort == MEASURED:
            return len(self._index(cohort))
        described = self.cohorts[cohort]
        return described.n if isinstance(described, Cohort) else len(self._index(cohort))

    def data(self, cohorts: Sequence[str]) -> tuple[str, ...]:
        """Return what the scans of some cohorts are of: image parts, or k-space files."""
        if self.kspace is None:
            return self.parts(cohorts)
        return tuple(sorted({scan["file"] for c in cohorts for scan in self._index(c)}))

    def subject(self, cohort: str) -> str:
        """Return whose scans a cohort holds; nothing where its index names each scan's subject."""
        parts = self.cohorts[cohort].parts
        return parts[0] if self.kspace is None and len(parts) == 1 else ""

    def held_out(self, fold: str, cohort: str) -> bool:
        """Say whether the subjects of a test cohort were never trained on in a fold."""
        known = self.parts([*self.base, self.population, *self.folds[fold].train])
        return not subjects(self.parts([cohort])) & subjects(known)

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

    def _index(self, cohort: str) -> list[dict[str, Any]]:
        try:
            return cohort_index.index(self.scans(cohort))
        except FileNotFoundError as error:
            raise ValueError(
                f"cohort {cohort} is not read yet, {error.filename} is missing"
            ) from None

    def _check_split(self) -> None:
        for name, cohort in self.cohorts.items():
            unknown = sorted(set(cohort.parts) - set(self.split))
            if unknown or not cohort.parts:
                raise ValueError(
                    f"cohort {name}: no part {', '.join(unknown)} in the split, which has "
                    f"{sorted(self.split)}"
                )

    def _check_trained(self) -> None:
        settled = [c for fold in self.folds.values() for c in (*fold.train, *fold.validation)]
        learned = self.parts([*self.base, self.population, *settled])
        refused = [p for p in learned if any(source.test_only for source in sources_of(p))]
        if refused:
            raise ValueError(
                f"study {self.name}: {', '.join(refused)} may be tested on only, see {TABLE.name}"
            )

    def _check_apart(self, what: str, held_out: Sequence[str], known: Sequence[str]) -> None:
        theirs, ours = self.parts(held_out), self.parts(known)
        same = set(theirs) & set(ours)
        apart = {source.part for source in sources() if source.slices is not None}
        shared = subjects([p for p in theirs if p not in apart]) & subjects(ours)
        shared |= subjects(theirs) & subjects([p for p in ours if p not in apart])
        if same or shared:
            raise ValueError(
                f"{what} shares {', '.join(sorted(same | shared))} with what it is trained on"
            )


def narrowed(cohort: str) -> str:
    """Return what the labels of a cohort with few calibration lines are called."""
    return f"{cohort}, narrow"


def read_study(path: Path) -> Study:
    """Read a study from JSON.

    Raises
    ------
    ValueError
        If a key is unknown or missing, or if a split shares a subject.
    """
    content = json.loads(path.read_text())
    kinds = {"cohorts": Cohort if content.get("kspace") is None else Slices, "folds": Fold}
    for key, kind in kinds.items():
        if key in content:
            content[key] = {
                name: made(kind, f"{path}: {key.removesuffix('s')} {name}", values)
                for name, values in content[key].items()
            }
    for name in ("folder", "images", "kspace", "package", "published"):
        if content.get(name) is not None:
            content[name] = Path(content[name])
    return made(Study, str(path), content)
