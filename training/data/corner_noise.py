"""How loud the noise of a scan is, from the corners of its k-space alone.

Where neither the readout nor the phase encoding leaves signal, samples are noise.
"""

import numpy as np
import torch
from torch import Tensor

from mnet.masks.line_plan import Bool
from mnet.physics.fourier import fourier

_CORNER = 1 / 10  # share of samples and rows at each end of k-space that is taken for noise
_TREND = 1.12  # ratio of a corner twice as wide to a corner above which it still holds signal


def corner_noise(kspace: Tensor, acquirable: Bool, share: float = _CORNER) -> float:
    """Return the standard deviation of complex noise in the quietest corner of hybrid k-space.

    By the median of |z|^2, which is ln 2 times its mean for noise and ignores single bright
    samples. Samples of the readout that the scanner left out (partial echo) are not looked at.
    `kspace` (coils, x, ky), `acquirable` (ky,).
    """
    kspace = fourier(kspace[..., torch.from_numpy(acquirable)], dim=-2)
    strength = kspace.abs().square().mean((0, 2))
    measured = torch.nonzero(strength > 1e-6 * strength.median()).flatten()
    kspace = kspace[:, measured[0] : measured[-1] + 1]
    n_x, n_ky = (max(2, round(n * share)) for n in kspace.shape[1:])
    corners = [
        part
        for side in (kspace[:, :n_x], kspace[:, -n_x:])
        for part in (side[..., :n_ky], side[..., -n_ky:])
    ]
    return min(float((c.abs().square().median() / np.log(2)).sqrt()) for c in corners)


def known_noise(kspace: Tensor, acquirable: Bool) -> float:
    """Return `corner_noise`, or 0 where the corners hold signal too: it falls off outwards."""
    noise = corner_noise(kspace, acquirable)
    wider = corner_noise(kspace, acquirable, 2 * _CORNER)
    return noise if wider <= _TREND * noise else 0.0
