"""Scans in units of their own noise: coils are weighed by what noise they share and how loud it is.

Least squares lets every coil count by its noise (Pruessmann et al., Magn Reson Med 46:638 (2001),
doi:10.1002/mrm.1241). Where no noise was measured, the ends of the outermost lines tell its
covariance. They hold signal too, more of it the less noise there is; and lines differ from what
the maps say by a share of the brightness, however little noise there is. So a FLOOR is added to
the covariance that all coils have alike: without noise to speak of, nothing changes.

The image stays that of the maps as they came: only errors are weighed.
"""

import torch
from torch import Tensor

from ..physics.coils import mix
from ..physics.noise import brightness, line_ends

FLOOR = 0.03  # of the brightness: what maps of few lines leave unexplained


def noise_units(kspace: Tensor, csm: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mix the coils so that their noise is uncorrelated and of equal power.

    Parameters
    ----------
    kspace, csm
        Hybrid k-space and maps (batch, coils, x, ky) of whole scans.
    mask
        (batch, ky) real, above 0 on acquired lines.

    Returns
    -------
    tuple[Tensor, Tensor, Tensor]
        k-space and maps, of unit norm, of the mixed coils, and the gain (batch, x, ky) by which
        their images are brighter than those of the coils that came.
    """
    matrices = torch.stack(
        [_mixing(*scan) for scan in zip(kspace, csm, mask, strict=True)]
    )  # (batch, coils, coils)
    maps = mix(matrices, csm)
    gain = maps.abs().square().sum(1).sqrt()
    gain = torch.where(gain > 0, gain, 1)
    return mix(matrices, kspace), maps / gain[:, None], gain


@torch.no_grad()
def _mixing(kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Return the Hermitian C^-1/2 of a scan, C in units of its mean power.

    Of all matrices that whiten, the Hermitian one turns with the order and the phases of coils.
    """
    bright = brightness(kspace, csm, mask)
    unit = torch.where(bright > 0, bright, 1)  # squares in it neither vanish nor overflow
    ends = line_ends(kspace, mask).flatten(2) / unit  # (2, coils, samples)
    covariance = ends @ ends.mH / ends.shape[-1]
    powers = covariance.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    # of a readout that was cut short, one end is without samples
    covariance = torch.where(powers[0] > powers[1], covariance[0], covariance[1])
    identity = torch.eye(len(csm), dtype=kspace.dtype, device=kspace.device)
    covariance = covariance + FLOOR**2 * identity
    power, vectors = torch.linalg.eigh(covariance / covariance.diagonal().real.mean())
    smallest = len(csm) * torch.finfo(power.dtype).eps
    mixing: Tensor = (vectors * power.clamp_min(smallest).rsqrt()) @ vectors.mH
    return mixing
