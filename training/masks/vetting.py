"""Which masks are worth choosing from: a small set that holds a good mask for every scan."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
ENOUGH = 1e-4  # mean relative loss that one more mask must save


def vet(cohorts: Sequence[Float], n_known: int, n: int) -> list[int]:
    """Return at most `n` masks to add to the first `n_known`, the most useful first.

    From losses (scans, masks) of cohorts, which count alike however many scans they have: a few
    measured scans weigh as much as all simulated ones. The first is the best single mask, if none
    of the known ones is; each further one saves most where a scan takes the best of the set.
    """
    relative = [losses / losses.min(1, keepdims=True) - 1 for losses in cohorts if losses.size]
    means = np.mean([losses.mean(0) for losses in relative], axis=0)
    single = int(means.argmin())
    chosen = [] if single < n_known else [single]
    while len(chosen) < n:
        known = [*range(n_known), *chosen]
        best = [losses[:, known].min(1, keepdims=True) for losses in relative]
        saved = np.mean(
            [(b - np.minimum(b, losses)).mean(0) for b, losses in zip(best, relative, strict=True)],
            axis=0,
        )
        if saved.max() < ENOUGH:
            break
        chosen.append(int(saved.argmax()))
    return chosen[:n]
