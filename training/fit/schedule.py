"""Whose step it is in alternating training, and which scans with which ICD masks it takes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import distributed

from mnet.masks.line_plan import Bool, LinePlan
from training.data.corpus import scan_path
from training.fit.train_recon import cohort_files
from training.masks.labels import read_labels

UNITS = ("step", "epoch", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Cycles of some steps of the reconstructor and then some of the sampler.

    unit "step": scans drawn anew in every step. "epoch": each party goes through all of its scans
    in an order of its own, shuffled again every time, in chunks of `batch`. "batch": the same scans
    and the same bands of them in all steps of a cycle, as the original sources have it.
    """

    n_reconstructor: int
    n_sampler: int
    unit: str
    batch: int  # scans per step and process
    seed: int

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unknown unit {self.unit!r}, expected one of {', '.join(UNITS)}")

    def party(self, step: int) -> str:
        """Return whose step it is."""
        place = step % (self.n_reconstructor + self.n_sampler)
        return "reconstructor" if place < self.n_reconstructor else "sampler"

    def generator(self, step: int, rng: np.random.Generator) -> np.random.Generator:
        """Return the generator of what a step draws: that of its cycle, where a batch stays."""
        if self.unit != "batch":
            return rng
        cycle = step // (self.n_reconstructor + self.n_sampler)
        return np.random.default_rng([self.seed, cycle, _process()[0]])

    def scans(self, step: int, n_scans: int, rng: np.random.Generator) -> list[int]:
        """Return the numbers of the scans that a step takes, of the `n_scans` of its party."""
        if self.unit != "epoch":
            return [int(n) for n in rng.integers(n_scans, size=self.batch)]
        cycle, place = divmod(step, self.n_reconstructor + self.n_sampler)
        is_sampler = self.party(step) == "sampler"
        before = (
            cycle * self.n_sampler + place - self.n_reconstructor
            if is_sampler
            else cycle * self.n_reconstructor + place
        )
        rank, n_processes = _process()
        numbers = []
        for i in range(self.batch):
            epoch, place = divmod((before * n_processes + rank) * self.batch + i, n_scans)
            order = np.random.default_rng([self.seed, epoch, is_sampler]).permutation(n_scans)
            numbers.append(int(order[place]))
        return numbers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledScan:
    """One scan on disk and its ICD mask (ky,), where it has one."""

    path: Path
    label: Bool | None

    def icd_mask(self, plan: LinePlan) -> Bool:
        """Return the ICD mask (ky,).

        Raises
        ------
        ValueError
            If there is none, or it is not a mask of the scan's plan.
        """
        label = self.label
        if label is None:
            raise ValueError(f"{self.path} has no ICD mask")
        fits = label.shape == plan.acquirable.shape and int(label.sum()) == plan.n_lines
        if not fits or np.any(plan.calibration & ~label) or np.any(label & ~plan.acquirable):
            raise ValueError(
                f"the label of {self.path} has {label.sum()} of {label.size} rows, expected "
                f"{plan.n_lines} of {plan.acquirable.size} with the calibration: make it again"
            )
        return label


def read_scans(folder: Path, labels: Path) -> list[LabelledScan]:
    """Return the scans of a cohort, with the ICD masks of its label files if it has any.

    Raises
    ------
    ValueError
        If a label is of a scan that is not there, or the files were made with other settings each.
    """
    files = cohort_files(folder)
    masks: dict[int, Bool] = {}
    if labels.exists():
        found = read_labels(labels)
        for (number, mask), is_icd in zip(
            found.masks.items(), found.arrays["has_icd"], strict=True
        ):
            if not scan_path(folder, number).exists():
                raise ValueError(f"{labels} has a label of {scan_path(folder, number)}, not there")
            if is_icd:
                masks[number] = mask
    return [LabelledScan(path=path, label=masks.get(int(path.stem))) for path in files]


def label_source(folders: Iterable[Path]) -> str:
    """Return the sha256 of the reconstructor that the label files in some folders were made with.

    Raises
    ------
    ValueError
        If there are none, or they were made with several.
    """
    sources = {str(f): read_labels(f).settings["reconstructor"] for f in folders if f.exists()}
    if len(set(sources.values())) != 1:
        raise ValueError(f"labels of one reconstructor are needed, found {sources or 'none'}")
    return str(next(iter(sources.values())))


def _process() -> tuple[int, int]:
    """Return the number of this process and how many there are."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
