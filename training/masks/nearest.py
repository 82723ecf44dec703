"""The neighbour as sampler: the ICD mask of the training scan whose low-frequency image is nearest.

SUNO (Gautam, Li and Ravishankar, arXiv:2501.09799): the feature of a scan is the magnitude of A^H y
from its calibration lines, divided by its maximum; distances are Frobenius norms. Scans here differ
in matrix size, so features are resampled to one grid over the encoded field of view; candidates are
scans of the same nominal acceleration, those of as many rows first; and a mask of another plan is
carried over as a pattern, which leaves it as it is where the plans are equal.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnet.masks.line_plan import Bool, LinePlan
from mnet.masks.patterns import Pattern
from mnet.physics import sense
from training.data.corpus import Sample

GRID = (48, 48)
_SAME_ACCELERATION = 1.1  # ratio of nominal accelerations up to which plans are about the same


def feature(sample: Sample) -> Tensor:
    """Return the low-frequency image of a scan: magnitudes on GRID, at most about 1, flattened."""
    plan = torch.from_numpy(sample.plan().calibration)
    kspace = torch.where(plan, sample.kspace, 0)
    image = sense.adjoint(kspace, sample.csm, plan.to(sample.csm.real.dtype)).abs()
    image = image / image.max().clamp_min(torch.finfo(image.dtype).tiny)
    small = functional.interpolate(image[None, None], GRID, mode="bilinear", antialias=True)
    return small.flatten()


def distances(queries: Tensor, examples: Tensor) -> Tensor:
    """Return squared Frobenius distances (queries, examples) of features (.., pixels)."""
    # Float64, because near neighbours are a small difference of two large sums.
    a, b = queries.double(), examples.double()
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return (squares - 2 * a @ b.T).clamp_min(0)


class Nearest:
    """SUNO's sampler over examples of scans and their ICD masks.

    `subjects` labels the examples; a call that names its own subject, or an `exclude` predicate
    over example numbers, keeps neighbours from the scan's own body. A mask follows the plan of the
    example's nominal acceleration. Equal distances: the example that was given first.

    Raises
    ------
    ValueError
        If there are no examples, labels of another number, or a mask that is not of its plan.
    """

    def __init__(
        self, examples: Iterable[tuple[Sample, Bool]], subjects: Sequence[str] | None = None
    ) -> None:
        features = []
        self.plan: list[LinePlan] = []
        self.masks: list[Bool] = []
        self.patterns: list[Pattern] = []
        accelerations = []
        for sample, mask in examples:  # one at a time: a scan of 15 coils is large
            plan = sample.plan()
            features.append(feature(sample))
            accelerations.append(sample.acceleration)
            self.plan.append(plan)
            self.masks.append(mask)
            self.patterns.append(Pattern.of(mask, plan))  # refuses masks of other plans
        if not features:
            raise ValueError("nearest neighbour: expected examples, got none")
        if subjects is not None and len(subjects) != len(features):
            raise ValueError(
                f"nearest neighbour: expected subjects of {len(features)} examples, "
                f"got {len(subjects)}"
            )
        self.subjects = None if subjects is None else np.array(subjects, dtype=object)
        self.features = torch.stack(features)
        self.accelerations = np.array(accelerations)
        self.n_rows = np.array([plan.acquirable.size for plan in self.plan])

    def __call__(
        self,
        sample: Sample,
        subject: str | None = None,
        exclude: Callable[[int], bool] | None = None,
    ) -> Bool:
        """Return the neighbour's mask for the plan of a scan."""
        return self.mask(self.neighbours([sample], [subject], exclude)[0], sample)

    def mask(self, number: int, sample: Sample) -> Bool:
        """Return the mask of an example, carried over to the plan of a scan."""
        plan, own = sample.plan(), self.plan[number]
        same = (
            plan.n_lines == own.n_lines
            and np.array_equal(plan.acquirable, own.acquirable)
            and np.array_equal(plan.calibration, own.calibration)
        )
        return self.masks[number].copy() if same else self.patterns[number].realise(plan)

    def neighbours(
        self,
        samples: Sequence[Sample],
        subjects: Sequence[str | None] | None = None,
        exclude: Callable[[int], bool] | None = None,
    ) -> list[int]:
        """Return the number of the nearest example for each scan.

        Raises
        ------
        ValueError
            If a subject is named but the examples have no labels, or nothing is left to choose.
        """
        subjects = [None] * len(samples) if subjects is None else subjects
        found = distances(torch.stack([feature(s) for s in samples]), self.features).numpy()
        chosen = []
        for row, sample, subject in zip(found, samples, subjects, strict=True):
            allowed = self._candidates(sample, subject, exclude)
            chosen.append(int(allowed[row[allowed].argmin()]))
        return chosen

    def _candidates(
        self, sample: Sample, subject: str | None, exclude: Callable[[int], bool] | None
    ) -> NDArray[np.intp]:
        """Return the numbers of the examples to choose from."""
        allowed = np.ones(len(self.masks), dtype=bool)
        if subject is not None:
            if self.subjects is None:
                raise ValueError(f"subject {subject!r} cannot be kept out: examples have no labels")
            allowed &= self.subjects != subject
        if exclude is not None:
            allowed &= [not exclude(number) for number in range(allowed.size)]
        if not allowed.any():
            raise ValueError(
                f"nearest neighbour: no example of {allowed.size} is left for subject {subject!r}"
            )
        apart = np.abs(np.log(self.accelerations / sample.acceleration))
        # the same nominal acceleration, or else the nearest one that there is
        nearest = max(float(apart[allowed].min()), float(np.log(_SAME_ACCELERATION)))
        allowed &= apart <= nearest * (1 + 1e-9)
        same_rows = allowed & (self.n_rows == sample.acquirable.size)
        return np.flatnonzero(same_rows if same_rows.any() else allowed)
