"""Another phase for a scan that is there: air cavities near the slice, and fat under the skin.

A plane that passes a sinus or a lung sees the dipole field of the air, turns of the phase within a
few pixels, and a thin layer of fat around the object has a phase of its own. The phase multiplies
the images of all coils alike, so the maps stay, and so does the noise but where a voxel dephases.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mnet.physics import sense
from mnet.physics.fourier import fourier, inverse_fourier
from training.data.corpus import Sample

REPHASED = 0.4  # share of scans
FINE = 2  # points along an axis of a voxel, over which its signal adds up


def rephased(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return some scans with cavities of air near their slice, or fat under their skin, or both."""
    if rng.random() > REPHASED:
        return sample
    coils = inverse_fourier(sample.kspace, dim=-1)
    shape = (coils.shape[-2], coils.shape[-1])
    kind = rng.choice(["air", "fat", "both"])
    phasor = torch.ones(shape, dtype=torch.complex64)
    if kind != "fat":
        phasor = phasor * air(shape, rng)
    if kind != "air":
        magnitude = sense.combine(coils, sample.csm).abs()
        phasor = phasor * torch.exp(1j * under_the_skin(magnitude, rng))
    return replace(sample, kspace=fourier(coils * phasor, dim=-1))


def air(shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Return the signal of voxels (x, y) near spheres of air, of magnitude 1 where it keeps phase.

    The field of a sphere of radius R is proportional to R^3 (3 cos^2 - 1) / r^3; inside the sphere
    there is no signal to speak of, and it lies beside the plane. A sinus of the head at 3 T turns
    the phase by 2 rad per ms of the echo time at its pole.
    """
    n_x, n_y = (FINE * n for n in shape)
    x, y = torch.linspace(-1, 1, n_x)[:, None], torch.linspace(-1, 1, n_y)[None]
    # the main field is across the plane or in it
    along = ((0, 0, 1), (1, 0, 0), (0, 1, 0))[int(rng.integers(3))]
    phase = torch.zeros(n_x, n_y)
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(0.08, 0.35)
        height = radius * rng.uniform(0.3, 2)
        place = rng.uniform(-0.8, 0.8, 2)
        d = (x - float(place[0]), y - float(place[1]), torch.tensor(float(height)))
        square = d[0] ** 2 + d[1] ** 2 + d[2] ** 2
        pole = sum(a * part for a, part in zip(along, d, strict=True)) ** 2
        dipole = 3 * pole / square - 1
        strength = float(np.exp(rng.normal(1.3, 0.8)) * rng.choice([-1, 1]))
        phase += strength * dipole * (radius**2 / square.clamp_min(radius**2)) ** 1.5
    signal = torch.view_as_real(torch.polar(torch.ones_like(phase), phase)).permute(2, 0, 1)
    parts = functional.avg_pool2d(signal[None], FINE)[0].permute(1, 2, 0)
    return torch.view_as_complex(parts.contiguous())


def under_the_skin(magnitude: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the phase (x, y) of a layer of fat around the object, any angle."""
    bright = float(torch.quantile(magnitude.flatten()[:: max(1, magnitude.numel() // 50000)], 0.95))
    outside = (magnitude < 0.15 * bright).float()[None, None]
    outside = functional.avg_pool2d(outside, 3, stride=1, padding=1)  # a dark voxel is no surface
    near = (outside > 0.6).float()
    reach = max(2, round(float(rng.uniform(0.015, 0.06)) * max(magnitude.shape)))
    reached = functional.max_pool2d(near, 2 * reach + 1, stride=1, padding=reach)
    layer = functional.avg_pool2d(reached - near, 3, stride=1, padding=1)[0, 0]
    return layer * float(rng.uniform(0.5, np.pi) * rng.choice([-1, 1]))
