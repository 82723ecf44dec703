"""What a network is told about a scan beside its lines: three numbers, none of which has a unit.

- The noise ratio, of a pixel's noise to its brightness: after whitening the scale of an image means
  nothing, its noise does.
- The acceleration, rows over lines.
- The effective number of coils, (sum e)^2 / sum e^2 of the eigenvalues of the maps' covariance,
  row by row: how far coils can unfold what was left out. It is 1 for one channel.

All follow from the acquired lines and the maps, so an image is a function of what was measured
alone. They are of the whole scan: a band of its rows is reconstructed with the numbers of all.
"""

import torch
from torch import Tensor

from ..physics.noise import brightness, noise_level

N_CONDITIONS = 3
LEAST, MOST = 5e-4, 0.5  # the noise ratio stays within what networks are trained on
TYPICAL = (0.02, 4.0, 3.0)  # where every condition is 0


def noise_ratio(kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Return the noise of a pixel over the brightness of the object, a real scalar.

    Parameters
    ----------
    kspace, csm
        Hybrid k-space and maps (coils, x, ky) of a whole scan; maps have unit norm, and are 0
        outside the object.
    mask
        (ky,) real, above 0 on acquired lines, which hold nearly all the energy there is.
    """
    bright = brightness(kspace, csm, mask)
    ratio = noise_level(kspace, mask) / bright.clamp_min(torch.finfo(bright.dtype).tiny)
    return ratio.clamp(LEAST, MOST)


def effective_coils(csm: Tensor) -> Tensor:
    """Return how many independent coils maps (coils, x, ky) amount to: a real scalar, 1 or more."""
    rows = csm.transpose(-3, -2)  # (x, coils, ky)
    covariance = rows @ rows.mH
    trace = covariance.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    squares = covariance.abs().square().sum((-2, -1))
    ratio = trace.square().sum() / squares.sum().clamp_min(torch.finfo(trace.dtype).tiny)
    return ratio.clamp_min(1)


@torch.no_grad()
def conditions(kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Return the conditions (batch, N_CONDITIONS) of scans, as logarithms about TYPICAL.

    Shapes: kspace and csm (batch, coils, x, ky) of whole scans, mask (batch, ky).
    """
    scans = []
    for lines, maps, rows in zip(kspace, csm, mask, strict=True):
        acceleration = rows.numel() / rows.sum().clamp_min(1)
        scans.append([noise_ratio(lines, maps, rows), acceleration, effective_coils(maps)])
    numbers = torch.stack([torch.stack(scan) for scan in scans])
    return (numbers / numbers.new_tensor(TYPICAL)).log()


def told_numbers(told: Tensor) -> Tensor:
    """Return what conditions (batch, N_CONDITIONS) stand for: noise ratio, acceleration, coils."""
    return told.exp() * told.new_tensor(TYPICAL)
