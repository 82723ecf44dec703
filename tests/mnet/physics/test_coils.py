from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from mnet.physics.coils import compress
from mnet.physics.prewhiten import apply, noise_covariance, whitening_matrix


def low_rank(coils: int, rank: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(coils, rank, dtype=torch.complex128, generator=generator)
    sources = torch.randn(rank, 12, 9, dtype=torch.complex128, generator=generator)
    return torch.tensordot(mixing, sources, 1)


def test_matrix_spans_the_leading_left_singular_vectors() -> None:
    data = low_rank(8, 8)
    matrix = compress(data, 3)
    left, _, _ = np.linalg.svd(data.flatten(1).numpy(), full_matrices=False)
    overlap = np.abs(matrix.numpy() @ left[:, :3])
    assert np.allclose(overlap, np.eye(3), atol=1e-9)


def test_signal_of_low_rank_survives_compression_to_its_rank() -> None:
    data = low_rank(10, 4)
    matrix = compress(data, 4)
    assert torch.allclose(apply(matrix.mH, apply(matrix, data)), data)


def test_rows_are_orthonormal_so_that_white_noise_stays_white() -> None:
    matrix = compress(low_rank(10, 10), 6)
    assert torch.allclose(matrix @ matrix.mH, torch.eye(6, dtype=matrix.dtype))


def test_matrix_does_not_depend_on_the_phase_of_the_data() -> None:
    data = low_rank(6, 6)
    assert torch.allclose(compress(data * 1j, 6), compress(data, 6))
    largest = compress(data, 6).abs().amax(-1)
    assert torch.allclose(compress(data, 6).real.amax(-1), largest)


def test_batch_equals_its_slices_one_by_one() -> None:
    batch = torch.stack([low_rank(5, 5, seed) for seed in range(3)])
    matrices = compress(batch, 2)
    assert matrices.shape == (3, 2, 5)
    for matrix, data in zip(matrices, batch, strict=True):
        assert torch.allclose(matrix, compress(data, 2))


def test_half_the_coils_of_a_real_phantom_keep_nearly_all_signal(shared: Path) -> None:
    with h5py.File(shared / "data" / "raw" / "phantom_16ch_cloudmr.h5") as file:
        noise = torch.from_numpy(file["noise"][()]).flatten(1)
        kspace = torch.from_numpy(file["kspace"][0])
    kspace = apply(whitening_matrix(noise_covariance(noise)), kspace)
    matrix = compress(kspace[..., 48 - 8 : 48 + 8], 8)
    kept = apply(matrix, kspace).norm() / kspace.norm()
    assert matrix.dtype == torch.complex64
    assert 0.97 < kept <= 1.0001


def test_impossible_number_of_virtual_coils_is_refused() -> None:
    for n_virtual in (0, 6):
        with pytest.raises(ValueError, match=f"expected 1 to 5, got {n_virtual}"):
            compress(low_rank(5, 5), n_virtual)
