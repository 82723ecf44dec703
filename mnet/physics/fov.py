"""From the encoded space to the reconstructed one, as MRD's header has them."""

import math

import torch
from torch import Tensor

from .fourier import fourier, inverse_fourier


def crop(images: Tensor, dim: int, size: int) -> Tensor:
    """Keep the central `size` pixels along an axis; the pixel `n // 2` stays the centre."""
    n = images.shape[dim]
    return images.narrow(dim, n // 2 - size // 2, size)


def interpolate(images: Tensor, dim: int, size: int) -> Tensor:
    """Change the matrix of one axis at the same field of view, keeping the intensity.

    Negative `dim` of complex images (..., x, y). K-space is padded with zeros, or cropped.
    """
    n = images.shape[dim]
    if size == n:
        return images
    spectrum = fourier(images, dim=dim)
    if size < n:
        spectrum = crop(spectrum, dim, size)
    else:
        before = size // 2 - n // 2
        widths = [0, 0] * (-1 - dim) + [before, size - n - before]  # pad() begins at the last axis
        spectrum = torch.nn.functional.pad(spectrum, widths)
    return inverse_fourier(spectrum, dim=dim) * math.sqrt(size / n)


def to_recon_space(
    images: Tensor, kept: tuple[int, int] | None, matrix: tuple[int, int] | None
) -> Tensor:
    """Crop complex images (..., x, y) to `kept` pixels, then bring them to `matrix`.

    Either is (x, y), or None where that change is not wanted.
    """
    for change, target in ((crop, kept), (interpolate, matrix)):
        for dim, size in zip((-2, -1), target or (), strict=False):
            images = change(images, dim, size)
    return images
