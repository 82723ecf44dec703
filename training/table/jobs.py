"""What a table scores: every row on every cohort, with masks that are checked against the plans."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mnet.masks.line_plan import Bool, LinePlan
from mnet.weight_files import read_card
from training.data.cohort_index import subjects as listed
from training.data.corpus import scan_path
from training.data.mask_file import read_masks
from training.table.spec import Entry, Table, TestCohort

VERSION = 1  # of what scores mean; those of another version are not used


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of the table on one cohort."""

    study: Path
    entry: Entry
    cohort: TestCohort

    @property
    def label(self) -> str:
        """A name for people."""
        return f"{self.entry.sampler} + {self.entry.reconstructor} on {self.cohort.name}"

    @property
    def mask_path(self) -> Path:
        """The mask file."""
        folder = self.entry.masks.replace("{fold}", self.cohort.fold)
        return self.study / folder / f"{self.cohort.name}.npz"

    @property
    def weights(self) -> str:
        """The name of the weights, as `load_weights` takes it."""
        name = self.entry.weights.replace("{fold}", self.cohort.fold)
        return str(self.study / name) if "/" in name else name

    @property
    def key(self) -> dict[str, Any]:
        """What scores depend on beside scan and mask."""
        entry = self.entry
        used = read_card(self.weights)["sha256"] if self.weights else entry.reconstructor
        return {
            "version": VERSION,
            "weights": used,
            "noise": entry.noise,
            "cohort": self.cohort.name,
        }

    @property
    def cache(self) -> Path:
        """Where its scores are kept."""
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        name = f"{self.entry.sampler}-{self.entry.reconstructor}-{self.cohort.name}-{digest[:12]}"
        return self.study / "table" / "scores" / f"{name}.json"


def jobs(table: Table, study: Path) -> list[Job]:
    """Return every row on every cohort of its folds."""
    return [
        Job(study=study, entry=entry, cohort=cohort)
        for cohort in table.cohorts
        for entry in table.rows
        if not entry.folds or cohort.fold in entry.folds
    ]


def scan_numbers(study: Path, cohort: str) -> list[int]:
    """Return the numbers of a cohort's scans, ascending; ValueError if there are none."""
    folder = study / "scans" / cohort
    numbers = sorted(int(path.stem) for path in folder.glob("[0-9]*.safetensors"))
    if not numbers:
        raise ValueError(f"cohort {cohort!r} has no scans in {folder}")
    return numbers


def subjects(study: Path, cohort: TestCohort) -> dict[int, str]:
    """Return the subject of every scan of a cohort."""
    numbers = scan_numbers(study, cohort.name)
    if cohort.subject:
        return dict.fromkeys(numbers, cohort.subject)
    folder = study / "scans" / cohort.name
    try:
        named = listed(folder)
        return {number: named[number] for number in numbers}
    except (FileNotFoundError, IndexError):
        raise ValueError(
            f"cohort {cohort.name!r}: the table names no subject, and {folder / 'cohort.json'} "
            "does not have one for every scan"
        ) from None


def scan_plan(study: Path, cohort: str, number: int) -> tuple[LinePlan, float]:
    """Return what a mask of a scan may choose from, and the nominal acceleration."""
    path = scan_path(study / "scans" / cohort, number)
    try:
        with safe_open(path, "pt") as file:
            acceleration = float(file.get_tensor("acceleration"))
            return LinePlan.of(file.get_tensor("acquirable").numpy(), acceleration), acceleration
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}; draw the cohort again") from error


def read_checked(job: Job) -> dict[int, Bool]:
    """Return the masks of all scans of a job's cohort, each within its plan.

    Raises
    ------
    ValueError
        If the file is missing or damaged, was made for another cohort, lacks a scan, or holds a
        mask that is not a choice within the plan of its scan.
    """
    path, cohort = job.mask_path, job.cohort.name
    try:
        file = read_masks(path)
    except FileNotFoundError:
        raise ValueError(f"no masks for {job.label}: {path} is missing") from None
    made_for = file.settings.get("cohort", cohort)
    if made_for != cohort:
        raise ValueError(f"{path} holds masks of cohort {made_for!r}, expected {cohort!r}")
    numbers = scan_numbers(job.study, cohort)
    missing = [number for number in numbers if number not in file.masks]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(f"{path} lacks {len(missing)} of {len(numbers)} scans: {shown}")
    for number in numbers:
        check_mask(
            file.masks[number], scan_plan(job.study, cohort, number)[0], f"{path}, scan {number}"
        )
    return {number: file.masks[number] for number in numbers}


def held_out_masks(jobs: Sequence[Job]) -> Iterator[tuple[str, float, Bool, LinePlan]]:
    """Give every mask file once: sampler, nominal acceleration, mask and plan of its scans."""
    files = {job.mask_path: job for job in jobs if job.cohort.held_out}
    for job in files.values():
        for number, mask in read_checked(job).items():
            plan, acceleration = scan_plan(job.study, job.cohort.name, number)
            yield job.entry.sampler, acceleration, mask, plan


def check_mask(mask: Bool, plan: LinePlan, where: str) -> None:
    """Refuse a mask (ky,) that the plan does not allow."""
    if mask.shape != plan.acquirable.shape:
        raise ValueError(f"{where}: mask of {mask.size} rows, the scan has {plan.acquirable.size}")
    if np.any(mask & ~plan.acquirable):
        outside = int((mask & ~plan.acquirable).sum())
        raise ValueError(f"{where}: {outside} lines of the mask cannot be acquired")
    if np.any(plan.calibration & ~mask):
        left = int((plan.calibration & ~mask).sum())
        raise ValueError(f"{where}: the mask leaves out {left} calibration lines")
    if mask.sum() != plan.n_lines:
        raise ValueError(f"{where}: mask of {mask.sum()} lines, the budget is {plan.n_lines}")
