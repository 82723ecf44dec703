"""What a change is at worst: the upper end of a one-sided interval around its mean.

Scans of one cohort are alike, so that the means of cohorts may scatter more than their scans say:
the larger of the two standard errors counts.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


def upper_bound(
    cohorts: Sequence[NDArray[np.float64]], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the mean of changes, (scans,) for every cohort, and its one-sided upper bound.

    Of normal errors; infinite for fewer than two scans. Where nothing changes both are zero.
    """
    filled = [changes for changes in cohorts if changes.size]
    values = np.concatenate(filled) if filled else np.zeros(0)
    if values.size < 2:
        return float(values.mean()) if values.size else 0.0, float("inf")
    errors = [values.std(ddof=1) / np.sqrt(values.size)]
    if len(filled) > 1:
        means = np.array([changes.mean() for changes in filled])
        errors.append(means.std(ddof=1) / np.sqrt(means.size))
    mean = float(values.mean())
    return mean, mean + NormalDist().inv_cdf(confidence) * float(max(errors))
