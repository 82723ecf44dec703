"""Scans of a cohort with the ICD masks that a sampler learns from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnet.masks.line_plan import Bool, LinePlan
from training.data.corpus import cohort_files, scan_path
from training.masks.labels import read_labels


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
