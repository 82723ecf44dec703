"""The phase that a magnitude image lacks: smooth, off-centre echoes, and susceptibility.

Smooth phase comes from shims, flow and the transmit field. An echo that is not in the middle of
k-space is a ramp. Air and tissue differ in susceptibility, whose dipole field bends the phase near
edges, and tissues differ by a hundredth of that.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

CENTRED = 0.6  # share of scans whose echo lies within a sample of the middle
FURTHEST = 5.0  # samples that the echoes of the others are off


def object_phase(magnitude: Tensor, rng: np.random.Generator, size: tuple[int, int]) -> Tensor:
    """Draw a phase (x, y) in radians for an object.

    `size` is the field of view in pixels; the image is larger where the object overflows it.
    """
    shape = (magnitude.shape[0], magnitude.shape[1])
    return smooth_phase(shape, rng) + ramp(shape, size, rng) + susceptibility(magnitude, rng)


def smooth_phase(shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Draw a quadratic and a bumpy field on top, in some scans several times as steep."""
    x, y = (torch.linspace(-1, 1, n) for n in shape)
    x, y = x[:, None], y[None, :]
    a = rng.normal(0, 0.7, 3)
    phase = rng.uniform(-np.pi, np.pi) + a[0] * x**2 + a[1] * x * y + a[2] * y**2
    bumps = torch.from_numpy(rng.normal(0, rng.uniform(0, 1), (1, 1, 7, 7)).astype(np.float32))
    smooth = functional.interpolate(bumps, shape, mode="bicubic", align_corners=True)[0, 0]
    return (phase + smooth).float() * float(np.exp(rng.normal(0, 0.7)))


def ramp(shape: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Draw a linear phase: the echo is off the middle of k-space, by 2 pi a sample."""
    furthest = 1.0 if rng.random() < CENTRED else FURTHEST
    phase = torch.zeros(shape)
    for dim, (n, period) in enumerate(zip(shape, size, strict=True)):
        line = 2 * np.pi * rng.uniform(-furthest, furthest) * torch.arange(n) / period
        phase = phase + (line[:, None] if dim == 0 else line)
    return phase.float()


def susceptibility(magnitude: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the dipole field of the object as phase, in a plane that holds the main field.

    The field of a susceptibility chi is its convolution with 1/2 - k_b^2 / k^2 (in two dimensions),
    b the direction of the main field. Most scans have little of it (spin echo), some much.
    """
    bright = float(torch.quantile(magnitude, 0.95).clamp_min(1e-6))
    tissue = (magnitude / (0.2 * bright)).clamp(0, 1) + 0.1 * (magnitude / bright).clamp(0, 1.5)
    n_x, n_y = magnitude.shape
    shape = (2 * n_x, 2 * n_y)  # the field does not come round at the edges
    k_x, k_y = torch.meshgrid(*(torch.fft.fftfreq(n) for n in shape), indexing="ij")
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * k_x + np.sin(angle) * k_y
    square = k_x.square() + k_y.square()
    kernel = 0.5 - along.square() / square.clamp_min(1e-12)
    kernel[0, 0] = 0
    # no scan resolves the field at its sharpest: within a voxel it adds up to nothing
    kernel = kernel * torch.exp(-square * (2 * np.pi * rng.uniform(0.5, 1.5)) ** 2 / 2)
    field: Tensor = torch.fft.ifft2(torch.fft.fft2(tissue, shape) * kernel).real[:n_x, :n_y]
    return field * float(np.exp(rng.normal(-0.2, 0.9)) * rng.choice([-1, 1]))
