"""Reconstructions without a network.

Both take hybrid k-space (..., coils, x, ky), csm of the same shape and a real mask (..., ky), and
return complex images (..., x, y).
"""

from torch import Tensor

from ..physics import sense
from . import cg


def zero_filled(kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Return the coil-combined zero-filled image, without compensation for the lines' density."""
    return sense.adjoint(kspace, csm, mask)


def cg_sense(
    kspace: Tensor,
    csm: Tensor,
    mask: Tensor,
    *,
    lam: float = 0.02,
    n_iterations: int = 30,
    tolerance: float = 1e-5,
) -> Tensor:
    """Return the least-squares image, with Tikhonov weight `lam` on unit-norm operators.

    The default is near the best for accelerated scans of ordinary noise; without any weight noise
    grows where coils cannot tell aliases apart.

    Pruessmann et al. 2001, doi:10.1002/mrm.1241.
    """
    normal = sense.Normal(csm, mask)
    return cg.solve(
        lambda image: normal(image) + lam * image,
        sense.adjoint(kspace, csm, mask),
        n_iterations=n_iterations,
        tolerance=tolerance,
    )
