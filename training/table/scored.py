"""What a row of the table scores on a cohort, scan by scan."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.table.spec import Entry, TestCohort

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The figures of one row on one cohort, by scan."""

    entry: Entry
    cohort: TestCohort
    scans: Mapping[int, Figures]
    subjects: Mapping[int, str]  # of the scans

    @property
    def accelerations(self) -> set[float]:
        """The nominal accelerations of its scans."""
        return {found["acceleration"] for found in self.scans.values()}

    def at(self, acceleration: float) -> list[list[Figures]]:
        """Return the figures at a nominal acceleration by subject, scans ascending."""
        groups: dict[str, list[Figures]] = {}
        for number, found in sorted(self.scans.items()):
            if found["acceleration"] == acceleration:
                groups.setdefault(self.subjects[number], []).append(found)
        return list(groups.values())

    def nrmse(self, acceleration: float) -> list[NDArray[np.float64]]:
        """Return the NRMSE at a nominal acceleration, (scans,) for every subject."""
        return [np.array([f["nrmse"] for f in group]) for group in self.at(acceleration)]
