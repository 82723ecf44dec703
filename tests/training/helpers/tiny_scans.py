"""Scans of noise on one plan, one side of which is louder; made in a blink."""

from pathlib import Path

import numpy as np
import torch

from mnet.masks.line_plan import Bool, LinePlan
from training.data.corpus import Sample, save, scan_path
from training.data.mask_file import write_masks

N_ROWS, N_X, N_COILS = 32, 12, 2


def acquirable() -> Bool:
    rows = np.ones(N_ROWS, dtype=bool)
    rows[:2] = False
    return rows


def loud_side(number: int) -> int:
    return int(np.random.default_rng([5, number]).integers(2))


def draw(number: int) -> Sample:
    """Draw a scan whose rows are louder below the centre (side 0) or above it (side 1)."""
    rng = np.random.default_rng([3, number])
    kspace = rng.normal(size=(2, N_COILS, N_X, N_ROWS)) @ np.diag(acquirable() * 1.0)
    kspace = torch.from_numpy(kspace[0] + 1j * kspace[1]).to(torch.complex64)
    ky = torch.arange(N_ROWS)
    loud = ky < N_ROWS // 2 if loud_side(number) == 0 else ky >= N_ROWS // 2
    kspace = kspace * torch.where(loud, 4.0, 1.0)
    csm = torch.full((N_COILS, N_X, N_ROWS), N_COILS**-0.5, dtype=torch.complex64)
    return Sample(
        kspace=kspace, clean=kspace.clone(), csm=csm, acquirable=acquirable(), acceleration=2.0
    )


def label(number: int, plan: LinePlan) -> Bool:
    """Take the movable rows on the louder side that are nearest to the centre."""
    rows = np.flatnonzero(plan.movable)
    side = rows < plan.center if loud_side(number) == 0 else rows >= plan.center
    nearest = rows[side][np.argsort(np.abs(rows[side] - plan.center))]
    return plan.mask(nearest[: plan.n_movable])


def write_cohort(folder: Path, cohort: str, first: int, n: int) -> None:
    """Write scans and their labels, every second of which is no ICD mask."""
    (folder / "scans" / cohort).mkdir(parents=True)
    masks = {}
    for number in range(n):
        sample = draw(first + number)
        save(sample, scan_path(folder / "scans" / cohort, number))
        masks[number] = label(first + number, sample.plan())
    has_icd = np.arange(n) % 2 == 0
    write_labels(folder / "labels" / cohort / "0.npz", masks, has_icd)


def write_labels(path: Path, masks: dict[int, Bool], has_icd: Bool, by: str = "test") -> None:
    """Write a block of label files, with what alternating training reads of one."""
    gradient = np.zeros((len(masks), N_ROWS), dtype=np.float32)
    write_masks(path, masks, {"reconstructor": by}, {"has_icd": has_icd, "gradient": gradient})
