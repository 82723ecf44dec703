"""Coil sensitivity maps from a calibration region: ESPIRiT, one map, batched.

Uecker et al., Magn Reson Med 71:990 (2014), doi:10.1002/mrm.24751. Every k x k patch of
calibration k-space, all coils together, lies in a small subspace. In image space the projection
onto it becomes one coils x coils matrix per pixel, and the sensitivities are the vector that this
matrix leaves as it is: its eigenvector to the eigenvalue 1.

Nothing is approximated. A pixel's matrix depends on the kernels only through their
correlations, a (2k-1) x (2k-1) block of k-space for each pair of coils, so two small products with
Fourier matrices evaluate it at every pixel, and no kernel is ever padded to the image size.
"""

import math

import torch
from torch import Tensor

from .fourier import fourier

_SQUARINGS = 7  # of a pixel's matrix: as many steps of the power iteration as 2**7
_CHUNK_BYTES = 2**22  # of pixel matrices at a time: what stays in a processor's cache


def espirit(
    calibration: Tensor,
    shape: tuple[int, int],
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.9,
    soft_crop: bool = False,
) -> Tensor:
    """Estimate coil sensitivity maps, zero where there is no object.

    Parameters
    ----------
    calibration
        (..., coils, n_kx, n_ky) complex k-space of a full rectangle. It should hold the centre,
        for the sake of signal; where in it DC lies makes no difference to the method.
    shape
        (x, y) pixels of the maps, over the field of view of the calibration.
    kernel
        Width of the patches. Along an axis of n samples at most ``(n + 1) // 2`` is used, so that
        there are as many positions as taps; n below 4 is refused.
    threshold
        Singular values of the calibration matrix below this part of the largest are noise.
    crop
        Pixels whose eigenvalue is not above it are outside the object and zero.
    soft_crop
        Fade the maps over ``sqrt(eigenvalue)`` between ``2 * crop - 1`` and 1, as BART does.

    Returns
    -------
    Tensor
        (..., coils, x, y) of unit norm over the coils inside the object (below it where soft
        cropping fades). The first coil is real and not negative, as in sigpy: the phase of the
        object that is common to all coils is not part of the maps.

    Raises
    ------
    ValueError
        Where the calibration is too small, larger than the maps, not finite or not complex.
    """
    maps, eigenvalues = eigenmaps(calibration, shape, kernel=kernel, threshold=threshold)
    weight = _soft_weight(eigenvalues, crop) if soft_crop else eigenvalues > crop
    return maps * weight.unsqueeze(-3)


def eigenmaps(
    calibration: Tensor, shape: tuple[int, int], *, kernel: int = 6, threshold: float = 0.02
) -> tuple[Tensor, Tensor]:
    """Return the maps before cropping (..., coils, x, y), and their eigenvalues (..., x, y).

    Arguments and errors are those of `espirit`. The eigenvalues are real, within [0, 1], and near
    1 where the coils see an object.
    """
    _check(calibration, shape)
    *batch, coils, n_kx, n_ky = calibration.shape
    kernel_x, kernel_y = (min(kernel, (n + 1) // 2) for n in (n_kx, n_ky))
    lags = _kernel_correlations(
        calibration.reshape(-1, coils, n_kx, n_ky), kernel_x, kernel_y, threshold
    )
    to_x = _fourier_matrix(shape[0], kernel_x, lags)
    to_y = _fourier_matrix(shape[1], kernel_y, lags)
    rows = (to_x @ lags.flatten(-2)).reshape(-1, lags.shape[2], coils * coils)  # one per (b, x)
    at_once = max(1, _CHUNK_BYTES // (shape[1] * coils * coils * lags.element_size()))
    chunks = [
        _dominant_eigenvector((to_y @ some).reshape(-1, shape[1], coils, coils))
        for some in torch.split(rows, at_once)
    ]
    vectors = torch.cat([vector for vector, _ in chunks]).reshape(*batch, *shape, coils)
    eigenvalues = torch.cat([value for _, value in chunks]).reshape(*batch, *shape)
    return vectors.movedim(-1, -3).contiguous(), eigenvalues


def calibration_from_lines(lines: Tensor, n_x: int = 24) -> Tensor:
    """Cut the calibration region out of hybrid lines: (..., coils, x, L) to (..., coils, n_x, L).

    The readout goes from image space to k-space, of which the central ``n_x`` samples stay (all,
    where there are fewer). The L lines are consecutive and ascending in ky.
    """
    n = lines.shape[-2]
    n_x = min(n_x, n)
    return fourier(lines, dim=-2).narrow(-2, n // 2 - n_x // 2, n_x)


def _check(calibration: Tensor, shape: tuple[int, int]) -> None:
    if not calibration.is_complex() or calibration.ndim < 3:
        raise ValueError(
            "calibration: expected complex (..., coils, n_kx, n_ky), "
            f"got {calibration.dtype} {tuple(calibration.shape)}"
        )
    size = tuple(calibration.shape[-2:])
    if min(size) < 4 or any(n > pixels for n, pixels in zip(size, shape, strict=True)):
        raise ValueError(
            f"calibration region: expected at least 4 x 4 and at most the maps' "
            f"{shape[0]} x {shape[1]}, got {size[0]} x {size[1]}"
        )
    if not torch.isfinite(torch.view_as_real(calibration)).all():
        raise ValueError("calibration: expected finite values, got NaN or infinity")


def _kernel_correlations(
    calibration: Tensor, kernel_x: int, kernel_y: int, threshold: float
) -> Tensor:
    """Correlate the kernels of all pairs of coils: (batch, 2 kx - 1, 2 ky - 1, coils**2).

    With Q the projection onto the span of the patches, whose rows and columns are (coil, x, y)
    taps, this is the sum of Q over all pairs of taps that lie equally far apart.
    """
    batch, coils = calibration.shape[:2]
    taps = kernel_x * kernel_y
    patches = calibration.unfold(-2, kernel_x, 1).unfold(-2, kernel_y, 1)
    matrix = patches.permute(0, 2, 3, 1, 4, 5).reshape(batch, -1, coils * taps)
    _, singular, basis = torch.linalg.svd(matrix, full_matrices=False)
    kept = basis * (singular > threshold * singular[:, :1]).unsqueeze(-1)
    q = (kept.mT @ kept.conj()).reshape(batch, coils, taps, coils, taps)
    q = q.permute(0, 2, 4, 1, 3).reshape(batch, taps * taps, coils * coils) / taps

    device = calibration.device
    x = torch.arange(kernel_x, device=device).repeat_interleave(kernel_y)
    y = torch.arange(kernel_y, device=device).repeat(kernel_x)
    lag_x = x[:, None] - x + kernel_x - 1
    lag_y = y[:, None] - y + kernel_y - 1
    n_x, n_y = 2 * kernel_x - 1, 2 * kernel_y - 1
    lags = torch.zeros(batch, n_x * n_y, coils * coils, dtype=q.dtype, device=device)
    lags.index_add_(1, (lag_x * n_y + lag_y).flatten(), q)
    return lags.reshape(batch, n_x, n_y, coils * coils)


def _fourier_matrix(n_pixels: int, kernel: int, like: Tensor) -> Tensor:
    """exp(2 pi i d (n - N // 2) / N) for every pixel n and lag d: (pixels, 2 kernel - 1)."""
    pixel = torch.arange(n_pixels, dtype=torch.float64, device=like.device) - n_pixels // 2
    lag = torch.arange(1 - kernel, kernel, dtype=torch.float64, device=like.device)
    phase = pixel[:, None] * lag * (2 * math.pi / n_pixels)
    return torch.polar(torch.ones_like(phase), phase).to(like.dtype)


def _dominant_eigenvector(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Find the eigenvector (..., coils) of greatest eigenvalue (...), its first entry real.

    Repeated squaring is the power iteration with its step count doubled each time. It turns a
    positive matrix into the projection onto the wanted vector, whose column of greatest diagonal
    starts from the coil that sees most: a start that is never orthogonal to what is sought.
    """
    tiny = torch.finfo(gram.dtype).tiny
    power = gram
    for _ in range(_SQUARINGS):
        power = power @ power
        trace = power.diagonal(dim1=-2, dim2=-1).real.sum(-1).clamp_min(tiny)
        power *= trace.reciprocal()[..., None, None]  # lest the next square underflow
    strongest = power.diagonal(dim1=-2, dim2=-1).real.argmax(-1, keepdim=True)
    column = power.take_along_dim(strongest.unsqueeze(-2), dim=-1).squeeze(-1)
    first = column[..., :1]
    phase = torch.where(first == 0, torch.ones_like(first), first.sgn()).conj()
    norm = column.abs().square().sum(-1, keepdim=True).sqrt().clamp_min(tiny)
    vector = column * phase / norm
    image = (gram @ vector.unsqueeze(-1)).squeeze(-1)
    return vector, (vector.conj() * image).sum(-1).real


def _soft_weight(eigenvalues: Tensor, crop: float) -> Tensor:
    """Rise from 0 to 1 without a corner: the weight of BART's ``ecalib -S``."""
    x = ((eigenvalues.clamp_min(0).sqrt() - crop) / (1 - crop)).clamp(-1, 1)
    return 0.5 + x / (1 + x.square())
