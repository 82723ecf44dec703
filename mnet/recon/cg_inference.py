"""Data consistency at inference: one scan, the same lines, a new prior in every unroll.

The step is that of `mnet.recon.cg`, argmin_x |M (A x - y)|^2 + lam |x - z|^2, computed faster where
no gradient is wanted:

- Coils enter only through S^H F^H M F S of one row x at a time, which a unitary change of coils
  leaves as it is. The principal components of the maps of each row therefore replace the coils,
  and those beyond a share of the energy are dropped. Zhang et al. 2013, doi:10.1002/mrm.24267.
- Rows are independent problems, so each has its own step lengths.

The descent begins at the prior, as in training: what the lines say nothing about stays as it is
there. From the last solution it would need many steps to get there.
"""

import torch
from torch import Tensor

from ..physics import sense
from ..physics.coils import compress_rows

DROPPED_ENERGY = 3e-5  # share of the maps' energy in the dropped coils: 1e-4 of the image


class DataConsistency:
    """Solve data consistency for one prior after another, images (batch, x, y).

    `zero_filled` is the coil-combined zero-filled image, of all coils. Only the constructor
    waits for the device, to learn how many coils are kept.
    """

    def __init__(
        self,
        kspace: Tensor,
        csm: Tensor,
        mask: Tensor,
        *,
        n_iterations: int,
        dropped: float = DROPPED_ENERGY,
    ) -> None:
        self.normal = sense.Normal(compress_rows(csm, dropped), mask)
        self.zero_filled = sense.adjoint(kspace, csm, mask)
        self.n_iterations = n_iterations

    def __call__(self, prior: Tensor, lam: Tensor) -> Tensor:
        """Return the image that fits the data and this prior; lam is a scalar or (batch, 1, 1)."""
        return self._descend(prior, self.zero_filled - self.normal(prior), lam)

    def _descend(self, x: Tensor, residual: Tensor, lam: Tensor) -> Tensor:
        """Return the solution after the conjugate gradient steps, row by row."""
        direction = residual
        energy = _inner(residual, residual)
        tiny = torch.finfo(energy.dtype).tiny
        for _ in range(self.n_iterations):
            image = self.normal(direction) + lam * direction
            step = energy / _inner(direction, image).clamp_min(tiny)
            x = x + step * direction
            residual = residual - step * image
            previous, energy = energy, _inner(residual, residual)
            direction = residual + (energy / previous.clamp_min(tiny)) * direction
        return x


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the real part of <a, b> per row, (..., x, 1) for images (..., x, y)."""
    product: Tensor = torch.linalg.vecdot(a, b).real.unsqueeze(-1)
    return product
