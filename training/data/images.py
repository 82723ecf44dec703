"""Anatomy for the simulation: magnitude volumes, and random views of them.

Views are re-slicings, rotations and flips at a random field of view. A view is not rendered finer
than its source is: what lies in the outer k-space of a scan shall be anatomy, not interpolation.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnet.physics.fourier import fourier, inverse_fourier

FINE = 2.0  # views are rendered finer, and cut in k-space as a scanner does: sharp to its edge
TEXTURE = (math.log(0.01), math.log(0.08))  # logarithm of its least and largest contrast
LEAST_FILL = 0.5  # of the field of view; rather than less, a coarse source is magnified


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """Magnitude (slices, rows, columns) or (slices, echoes, rows, columns), any unit."""

    data: NDArray[np.generic]
    phase: NDArray[np.complex64] | None = None  # exp(i phase), smooth; where it was measured
    voxel: tuple[float, float, float] = (1.0, 1.0, 1.0)  # mm
    reslice: bool = True  # False: never cut across
    filled: tuple[float, float] = (1.0, 1.0)  # share of k-space (row, column) that holds detail
    detail: str = "full"  # structure: its air, noise and outer k-space are not a scanner's
    name: str = "generated"


def random_slice(
    volumes: list[Volume], rng: np.random.Generator
) -> tuple[Tensor, tuple[float, float]]:
    """Draw a slice that shows anatomy: magnitude (rows, columns) in about 0..1, pixels in mm.

    What the scanner filled in is cut off, so that pixels are as large as the source's detail.
    """
    for _ in range(50):
        volume = volumes[rng.integers(len(volumes))]
        axis = int(rng.integers(3)) if volume.reslice else 0
        n = volume.data.shape[axis]
        index = int(rng.integers(n // 8, n - n // 8)) if volume.reslice else int(rng.integers(n))
        plane = np.take(volume.data, index, axis=axis)
        if plane.ndim == 3:
            plane = plane[rng.integers(plane.shape[0])]  # an echo
        bright = float(np.percentile(volume.data[:: max(1, n // 8)], 99))
        down, across = (size for i, size in enumerate(volume.voxel) if i != axis)
        image = torch.from_numpy(plane.astype(np.float32) / max(bright, 1e-6))
        if float((image > 0.15).float().mean()) > 0.12:
            filled = (1.0, 1.0) if volume.reslice else volume.filled
            return native(image, (down, across), filled)
    raise ValueError("found no slice with anatomy in 50 draws")


def native(
    image: Tensor, pixels: tuple[float, float], filled: tuple[float, float]
) -> tuple[Tensor, tuple[float, float]]:
    """Cut an image to the share of its k-space that is filled; gives it with its larger pixels."""
    if filled == (1.0, 1.0):
        return image, pixels
    rows, columns = (round(n * share) for n, share in zip(image.shape, filled, strict=True))
    larger = (pixels[0] * image.shape[0] / rows, pixels[1] * image.shape[1] / columns)
    return _cut(image, (rows, columns)).clamp_min(0), larger


def without_air(image: Tensor) -> Tensor:
    """Fade out the noise of the air around the object."""
    local = functional.avg_pool2d(image[None, None], 7, stride=1, padding=3)[0, 0]
    return image * ((local - 0.03) / 0.05).clamp(0, 1)


def random_contrast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Pass intensities through a random curve, so that no tissue is always the bright one.

    Some curves leave little contrast, as a proton density has it.
    """
    if rng.random() < 0.4:
        return image.clamp_min(0) ** float(rng.uniform(0.7, 1.3))
    darkest = float(rng.choice([0.1, rng.uniform(0.4, 0.8)]))
    heights = torch.tensor([0.0, *rng.uniform(darkest, 1.0, 5)], dtype=image.dtype)
    place = image.clamp(0, 0.999) * (heights.numel() - 1)
    below = place.long()
    return torch.lerp(heights[below], heights[below + 1], place - below)


def texture(shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Draw a field (x, y) about 1 of low contrast at all scales, whose spectrum falls as 1 / k^p.

    Sources are cleaned of their noise, and with it of what tissue has of fine structure. A network
    that never sees any takes it for noise.
    """
    k_x, k_y = torch.meshgrid(*(torch.fft.fftfreq(n) for n in shape), indexing="ij")
    away = (k_x.square() + k_y.square()).sqrt().clamp_min(1 / max(shape))
    white = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    field: Tensor = torch.fft.ifft2(torch.fft.fft2(white) / away ** float(rng.uniform(0.5, 1.5)))
    field = field.real / field.real.std()
    return (1 + float(np.exp(rng.uniform(*TEXTURE))) * field).clamp_min(0)


def random_view(
    image: Tensor,
    pixels: tuple[float, float],
    shape: tuple[int, int],
    rng: np.random.Generator,
    fill: tuple[float, float] = (0.65, 0.98),
    least_fill: float = LEAST_FILL,
) -> Tensor:
    """Render a slice on a matrix (x, y): random orientation, at a random field of view.

    The object fills a share of the field of view within `fill` in both directions, or less where
    its pixels are too large for that, though never less than `least_fill`.
    """
    if rng.random() < 0.5:
        image, pixels = image.T, (pixels[1], pixels[0])
    image = image.flip([axis for axis in (0, 1) if rng.random() < 0.5])
    inside = image > 0.1
    extent, centre = [], []
    for axis in (0, 1):
        where = torch.nonzero(inside.any(1 - axis)).flatten()
        low, high = float(where[0]), float(where[-1]) + 1
        extent.append((high - low) * pixels[axis])
        centre.append((low + high) / 2)
    spacing = view_spacing((extent[0], extent[1]), pixels, shape, rng.uniform(*fill, 2), least_fill)
    fine = (math.ceil(shape[0] * FINE), math.ceil(shape[1] * FINE))
    step = [spacing[i] * shape[i] / fine[i] / pixels[i] for i in (0, 1)]  # in source pixels
    small = [max(8, round(n / max(1.0, s))) for n, s in zip(image.shape, step, strict=True)]
    source = functional.interpolate(image[None, None], small, mode="bilinear", antialias=True)

    angle = math.radians(rng.uniform(-12, 12))
    across = [
        (torch.arange(fine[i]) - fine[i] // 2) * (spacing[i] * shape[i] / fine[i]) for i in (0, 1)
    ]
    x, y = torch.meshgrid(across[0], across[1], indexing="ij")
    row = (math.cos(angle) * x - math.sin(angle) * y) / pixels[0] + centre[0]
    column = (math.sin(angle) * x + math.cos(angle) * y) / pixels[1] + centre[1]
    grid = torch.stack([2 * column / image.shape[1] - 1, 2 * row / image.shape[0] - 1], dim=-1)
    rendered = functional.grid_sample(source, grid[None].float(), "bicubic", align_corners=False)
    return _cut(rendered[0, 0].clamp_min(0), shape)


def view_spacing(
    extent: tuple[float, float],
    pixels: tuple[float, float],
    shape: tuple[int, int],
    fill: NDArray[np.float64],
    least_fill: float = LEAST_FILL,
) -> tuple[float, float]:
    """Return the pixels of a view in mm, whose object of `extent` mm fills a share `fill` of it.

    They are never smaller than the source's, unless its object would fill less than `least_fill`.
    """
    wanted = [extent[i] / (fill[i] * shape[i]) for i in (0, 1)]
    most = [extent[i] / (least_fill * shape[i]) for i in (0, 1)]
    spacing = [max(wanted[i], min(pixels[i], most[i])) for i in (0, 1)]
    # pixels of a scan are nearly square
    return max(spacing[0], spacing[1] / 1.3), max(spacing[1], spacing[0] / 1.3)


def _cut(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Keep the central k-space of `shape`; real images (x, y), at the same brightness."""
    scale = math.sqrt(shape[0] * shape[1] / image.numel())
    kspace = image.to(torch.complex64)
    for dim, n in enumerate(shape):
        kspace = fourier(kspace, dim)
        kspace = kspace.narrow(dim, kspace.shape[dim] // 2 - n // 2, n)
        kspace = inverse_fourier(kspace, dim)
    return kspace.real * scale
