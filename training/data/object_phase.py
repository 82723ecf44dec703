"""The phase that a magnitude image lacks: smooth, off-centre echoes, and susceptibility.

Smooth phase comes from shims, flow and the transmit field. An echo that is not in the middle of
k-space is a ramp. Air and tissue differ in susceptibility, whose dipole field bends the phase near
edges, and tissues differ by a hundredth of that.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FLAT = 0.06  # share of scans without any phase but the coils', as good spin echoes are
SHIFTED = 0.4  # share of scans, gradient echoes, in which fat has a phase of its own
CENTRED = 0.75  # share of scans whose echo lies within a sample of the middle
FURTHEST = 2.5  # samples that the echoes of the others are off
COARSE = 24  # pixels along an axis, of the phase that is taken from a measured image


def object_phase(
    magnitude: Tensor,
    rng: np.random.Generator,
    size: tuple[int, int],
    measured: Tensor | None = None,
) -> Tensor:
    """Draw a phase (x, y) in radians for an object.

    `size` is the field of view in pixels; the image is larger where the object overflows it.
    The smooth part is that of a `measured` complex image (rows, columns) where one is given.
    """
    shape = (magnitude.shape[0], magnitude.shape[1])
    if rng.random() < FLAT:
        return torch.full(shape, float(rng.uniform(-np.pi, np.pi)))
    smooth = smooth_phase(shape, rng) if measured is None else measured_phase(measured, shape)
    phase = smooth + ramp(shape, size, rng) + susceptibility(magnitude, rng)
    return phase + chemical_shift(magnitude, rng) if rng.random() < SHIFTED else phase


def smooth_phase(shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Draw a quadratic and a bumpy field on top, in some scans several times as steep."""
    x, y = (torch.linspace(-1, 1, n) for n in shape)
    x, y = x[:, None], y[None, :]
    a = rng.normal(0, 1, 3)
    phase = rng.uniform(-np.pi, np.pi) + a[0] * x**2 + a[1] * x * y + a[2] * y**2
    bumps = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.6), (1, 1, 6, 6)).astype(np.float32))
    smooth = functional.interpolate(bumps, shape, mode="bicubic", align_corners=True)[0, 0]
    return phase.float() * float(np.exp(rng.normal(0.2, 1.0))) + smooth


def measured_phase(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Stretch the smooth phase of a measured complex image (rows, columns) over a matrix.

    Where it has no signal, and so no phase, the phase of its surroundings stands in.
    """
    parts = torch.view_as_real(image.to(torch.complex64)).permute(2, 0, 1)[None]
    near = functional.adaptive_avg_pool2d(parts, COARSE)
    wide = functional.avg_pool2d(near, 9, stride=1, padding=4)
    parts = functional.interpolate(near + 0.3 * wide, shape, mode="bicubic", align_corners=True)[0]
    return torch.atan2(parts[1], parts[0])


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
    return field * float(np.exp(rng.normal(0.1, 1.1)) * rng.choice([-1, 1]))


def chemical_shift(magnitude: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the phase (x, y) of fat, any angle where an object is bright, or of middling signal.

    Between fat and water it changes within a pixel or two: the skin, the marrow of bones.
    """
    signal = magnitude[magnitude > 0.1 * magnitude.max()]
    low = float(rng.uniform(0.4, 0.9))
    high = 1.0 if rng.random() < 0.7 else min(1.0, low + 0.2)
    bounds = torch.quantile(signal[:: max(1, signal.numel() // 50000)], torch.tensor([low, high]))
    fat = (magnitude >= bounds[0]) & (magnitude <= bounds[1])
    share = functional.avg_pool2d(fat.float()[None], 3, stride=1, padding=1)[0]
    return share * float(rng.uniform(-np.pi, np.pi))
