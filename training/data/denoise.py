"""Magnitude images are cleaned before they become objects: of noise, of air, of cut edges.

What a source image holds is the truth of a simulated scan. Its own noise would be detail that no
scan of that little noise shows, and where its field of view cut the body the edge would be sharp.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_REACH = 3  # pixels, of the search
_PATCH = 5
_CUT = 0.02  # mean brightness of a line that holds some of the body
_MARGIN = 0.05  # share of the image: a body that begins within it may have been cut
_TISSUE = 0.1  # of the bright tissue: below it noise is not that of tissue, or was masked


def noise_level(image: Tensor) -> float:
    """Return the standard deviation of the noise of a magnitude image (rows, columns), in tissue.

    By the median of the finest diagonal differences, which hold little anatomy (Donoho and
    Johnstone 1994, doi:10.1093/biomet/81.3.425).
    """
    rows, columns = (n // 2 * 2 for n in image.shape)
    image = image[:rows, :columns]
    a, b, c, d = image[::2, ::2], image[::2, 1::2], image[1::2, ::2], image[1::2, 1::2]
    tissue = (a + b + c + d) / 4 > _TISSUE * torch.quantile(image.flatten()[::4], 0.98)
    if not tissue.any():
        return 0.0
    return float(((a - b - c + d) / 2)[tissue].abs().median()) / 0.6745


def denoised(image: Tensor) -> Tensor:
    """Average every pixel of (rows, columns) with those whose neighbourhoods look the same.

    Non-local means (Buades et al. 2005, doi:10.1109/CVPR.2005.38), weights by the distance beyond
    what the noise explains (Coupe et al. 2008, doi:10.1109/TMI.2007.906087): edges stay.
    """
    variance = noise_level(image) ** 2
    if variance <= 0:
        return image
    total, weights = image.clone(), torch.ones_like(image)
    offsets = [(i, j) for i in range(_REACH + 1) for j in range(-_REACH, _REACH + 1)]
    for offset in offsets[_REACH + 1 :]:  # the other half are the same pairs
        other = image.roll(offset, (0, 1))
        apart = functional.avg_pool2d((image - other).square()[None, None], _PATCH, 1, _PATCH // 2)[
            0, 0
        ]
        weight = torch.exp(-(apart / variance - 2).clamp_min(0))
        total += weight * other
        weights += weight
        back = weight.roll((-offset[0], -offset[1]), (0, 1))
        total += back * image.roll((-offset[0], -offset[1]), (0, 1))
        weights += back
    return total / weights


def faded(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Fade out sides of (rows, columns) at which the field of view cut the body, as coils do."""
    for dim, n in enumerate(image.shape):
        for flipped in (False, True):
            width = round(n * rng.uniform(0.04, 0.2))
            profile = image.mean(1 - dim)
            profile = profile.flip(0) if flipped else profile
            first = int((profile > _CUT).nonzero()[:1].sum())
            if first > _MARGIN * n or float(profile.max()) <= _CUT:
                continue
            ramp = torch.ones(n)
            ramp[:first] = 0
            ramp[first : first + width] = torch.linspace(0, np.pi / 2, width).sin().square()
            ramp = ramp.flip(0) if flipped else ramp
            image = image * (ramp[:, None] if dim == 0 else ramp)
    return image
