"""How noisy lines are, seen from the lines themselves.

The ends of the outermost lines hold little but noise: readout frequencies and rows at which the
object has no energy. Their median power is the noise's, whatever a few samples of signal add. So a
scan without a noise measurement has a noise level too; where the signal reaches into the corners,
as on scans with very little noise, the level is an upper bound.
"""

import math

import torch
from torch import Tensor

from .fourier import fourier

ENDS = 8  # a line's outer 1 / ENDS at each end
OUTER = 4  # of the lines, the outer 1 / OUTER on each side of the centre


def noise_level(kspace: Tensor, mask: Tensor) -> Tensor:
    """Estimate the standard deviation of complex noise per sample, averaged over coils.

    A readout that was cut short has an end without samples: the louder end of the two counts.

    Parameters
    ----------
    kspace
        (coils, x, ky) complex, hybrid, whole readouts, best whitened: coils count alike.
    mask
        (ky,) real, above 0 on the lines that were acquired.

    Returns
    -------
    Tensor
        A real scalar in the unit of `kspace`.
    """
    ends = line_ends(kspace, mask)
    # the power of complex Gaussian noise is exponential, with a median of ln 2 times its mean
    power = ends.abs().square().flatten(2).quantile(0.5, dim=-1) / math.log(2)
    return power.mean(-1).max().sqrt()


def line_ends(kspace: Tensor, mask: Tensor) -> Tensor:
    """Return the ends of the outermost acquired lines: (2 ends, coils, samples, lines).

    Shapes as of `noise_level`; samples are of the readout's Fourier transform, along kx.
    """
    lines = torch.nonzero(mask > 0).flatten()
    n_lines = max(1, len(lines) // OUTER)
    lines = torch.cat([lines[:n_lines], lines[-n_lines:]])
    readouts = fourier(kspace[..., lines], dim=-2)
    n_ends = max(1, kspace.shape[-2] // ENDS)
    return torch.stack([readouts[:, :n_ends], readouts[:, -n_ends:]])


def brightness(kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Return the root mean square of the object's pixels, a real scalar.

    Shapes as of `noise_level`; maps `csm` are 0 outside the object. Acquired lines hold nearly all
    the energy there is.
    """
    acquired = torch.where(mask > 0, kspace, 0)
    support = (csm != 0).any(-3).sum()
    return (acquired.abs().square().sum() / support.clamp_min(1)).sqrt()
