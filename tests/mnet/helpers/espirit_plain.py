"""ESPIRiT written out plainly: what tests and benchmarks compare `mnet.physics.espirit` with."""

import math

import torch
from torch import Tensor, linalg

from mnet.physics.espirit import first_coil_real, kernel_size, patches


def eigenmaps(
    calibration: Tensor, shape: tuple[int, int], *, kernel: int = 6, threshold: float = 0.02
) -> tuple[Tensor, Tensor]:
    """Return the maps before cropping and all eigenvalues, greatest first: (..., coils, x, y) both.

    This is the plain version: a singular value decomposition, kernels transformed to every pixel,
    and every pixel diagonalised. Arguments and errors are those of `espirit`. The maps belong to
    the first eigenvalue, which is within [0, 1], and near 1 where the coils see an object.
    """
    size = kernel_size(calibration, shape, kernel)
    *batch, coils, n_kx, n_ky = calibration.shape
    matrix = patches(calibration.reshape(-1, coils, n_kx, n_ky), size)
    _, singular, basis = linalg.svd(matrix, full_matrices=False)
    basis = basis * (singular > threshold * singular[:, :1]).unsqueeze(-1)
    kernels = basis.reshape(len(basis), -1, coils, *size)
    to_x, to_y = (
        torch.exp(2j * math.pi / n * (torch.arange(n) - n // 2)[:, None] * torch.arange(taps))
        .to(calibration.dtype)
        .to(calibration.device)
        for n, taps in zip(shape, size, strict=True)
    )
    vectors, eigenvalues = [], []
    for row in to_x:
        images = torch.einsum("bncij,i,yj->bycn", kernels, row, to_y)
        values, columns = linalg.eigh(images @ images.mH / math.prod(size))
        eigenvalues.append(values.flip(-1))
        vectors.append(columns[..., -1] * (values[..., -1:] > 0))
    maps = first_coil_real(torch.stack(vectors, 1)).movedim(-1, -3)
    every = torch.stack(eigenvalues, 1).movedim(-1, -3)
    return maps.reshape(*batch, coils, *shape), every.reshape(*batch, coils, *shape)
