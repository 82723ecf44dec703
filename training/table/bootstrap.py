"""Intervals by block bootstrap within subjects.

Scans of one subject resemble each other, the more the nearer they are. So blocks of consecutive
scans are drawn together (Kuensch 1989, doi:10.1214/aos/1176347265, circular), every subject from
its own scans and with as many as it has. The subjects themselves are not drawn: there are too few,
and an interval says nothing of subjects that were not measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
METHOD = "95 % interval by block bootstrap of consecutive scans within each subject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How often to draw, how many consecutive values belong together, and from which seed."""

    n: int = 2000
    block: int = 4
    seed: int = 0

    def interval(self, *subjects: Sequence[float] | Floats) -> tuple[float, float]:
        """Return the central 95 % of the resampled mean over all values of all subjects."""
        means = self.means(*subjects)
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

    def means(self, *subjects: Sequence[float] | Floats) -> Floats:
        """Return the resampled means (n,); raises ValueError where there are no values."""
        values = [np.asarray(subject, dtype=np.float64) for subject in subjects]
        total = sum(v.size for v in values)
        if total == 0:
            raise ValueError("an interval needs values, got none")
        rng = np.random.default_rng(self.seed)
        sums = [v[self._draw(v.size, rng)].sum(axis=1) for v in values if v.size]
        means: Floats = np.sum(sums, axis=0) / total
        return means

    def _draw(self, size: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Return places (n, size) in runs of `block`, going round at the end.

        A run is no longer than a quarter of the scans: a run of all would always have their mean.
        """
        block = max(min(self.block, size // 4), 1)
        starts = rng.integers(0, size, (self.n, -(-size // block), 1))
        places = (starts + np.arange(block)).reshape(self.n, -1)[:, :size]
        return places % size


def paired(
    ours: Sequence[Floats], base: Sequence[Floats], bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """Return the mean relative difference in percent of paired values, subject by subject.

    `standard_error` takes scans as independent, `ci95` does not; `wins` is the share of scans with
    a lower value than the baseline.
    """
    relative = [100 * (a / b - 1) for a, b in zip(ours, base, strict=True)]
    every = np.concatenate(relative)
    if every.size == 0:
        return None
    error = float(every.std(ddof=1) / np.sqrt(every.size)) if every.size > 1 else None
    return {
        "mean_percent": float(every.mean()),
        "standard_error": error,
        "ci95": list(bootstrap.interval(*relative)),
        "ratio_of_means": float(np.concatenate(ours).mean() / np.concatenate(base).mean()),
        "wins": float((every < 0).mean()),
        "n_scans": int(every.size),
    }
