"""Coil compression: a few virtual coils that keep most of the signal of many.

Buehrer et al., Magn Reson Med 57:1131 (2007), doi:10.1002/mrm.21237: the virtual coils are the
principal components of the data over the coils, here of the calibration lines alone.
"""

import torch
from torch import Tensor


def compress(calibration: Tensor, n_virtual: int) -> Tensor:
    """Find the compression matrix (..., n_virtual, coils) of calibration data (..., coils, x, y).

    Rows are orthonormal, so that whitened noise stays white, and sorted by the energy that they
    catch; multiply the coil axis of any data by it with `mnet.physics.prewhiten.apply`. The largest
    coefficient of a row is real and positive, which settles the phase that principal components
    leave open. Raises ValueError where n_virtual is not within 1 and coils.
    """
    coils = calibration.shape[-3]
    if not 1 <= n_virtual <= coils:
        raise ValueError(f"virtual coils: expected 1 to {coils}, got {n_virtual}")
    data = calibration.flatten(-2)
    _, vectors = torch.linalg.eigh(data @ data.mH)  # eigenvalues ascend
    matrix: Tensor = vectors.flip(-1)[..., :n_virtual].mH
    largest = matrix.abs().argmax(-1, keepdim=True)
    phase: Tensor = matrix.take_along_dim(largest, dim=-1).sgn()
    return matrix * phase.conj()


def mix(matrices: Tensor, data: Tensor) -> Tensor:
    """Multiply the coils of (..., coils, x, y) by matrices (..., more or fewer, coils)."""
    mixed: Tensor = matrices @ data.flatten(-2)
    return mixed.reshape(*mixed.shape[:-1], *data.shape[-2:])


def row_matrices(csm: Tensor, dropped: float) -> Tensor:
    """Find a compression for every row x of maps (..., coils, x, y): (..., x, n_virtual, coils).

    The virtual coils are the principal components of a row's maps; as many are kept as it takes for
    the others to hold at most the share `dropped` of the energy of all maps. The normal operator of
    SENSE along y sees nothing else of the coils. Zhang et al. 2013, doi:10.1002/mrm.24267.
    """
    rows = csm.transpose(-3, -2)  # (..., x, coils, y)
    energy, vectors = torch.linalg.eigh(rows @ rows.mH)  # eigenvalues ascend
    tail = energy.flatten(0, -2).sum(0).cumsum(0)
    n_dropped = int((tail <= dropped * tail[-1]).sum().clamp_max(len(tail) - 1))
    matrices: Tensor = vectors[..., n_dropped:].mH
    return matrices


def mix_rows(matrices: Tensor, data: Tensor) -> Tensor:
    """Multiply the coils of maps or hybrid k-space (..., coils, x, y) by `row_matrices`."""
    return (matrices @ data.transpose(-3, -2)).transpose(-3, -2).contiguous()


def compress_rows(csm: Tensor, dropped: float) -> Tensor:
    """Compress maps (..., coils, x, y) to a few virtual coils, other ones for every row x."""
    return mix_rows(row_matrices(csm, dropped), csm)
