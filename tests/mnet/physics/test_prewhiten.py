import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from mnet.physics.prewhiten import (
    apply,
    gadgetron_scale,
    noise_covariance,
    scale_for,
    whitening_matrix,
)
from tests.mnet.helpers.operator_checks import adjoint_gap, linearity_gap


def correlated_noise(coils: int, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return noise of unit-variance sources through a random mixing, and that mixing."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(coils, coils, dtype=torch.complex128, generator=generator)
    white = torch.randn(coils, samples, dtype=torch.complex128, generator=generator)
    return mixing @ white, mixing


def test_covariance_is_that_of_numpy_about_zero() -> None:
    noise, _ = correlated_noise(3, 50)
    values = noise.numpy()
    want = sum(np.outer(v, v.conj()) for v in values.T) / 49
    assert np.allclose(noise_covariance(noise).numpy(), want)


def test_covariance_approaches_that_of_the_source() -> None:
    noise, mixing = correlated_noise(6, 200_000)
    want = mixing @ mixing.mH
    assert (noise_covariance(noise) - want).norm() < 0.02 * want.norm()


@pytest.mark.parametrize("coils", [1, 2, 15])
def test_matrix_is_the_inverse_of_the_dense_cholesky_factor(coils: int) -> None:
    covariance = noise_covariance(correlated_noise(coils, 400)[0])
    want = 1.7 * np.linalg.inv(np.linalg.cholesky(covariance.numpy()))
    assert np.allclose(whitening_matrix(covariance, scale=1.7).numpy(), want, atol=1e-10)


@pytest.mark.parametrize("gain", [1.0, 1e-7])
def test_whitened_noise_has_unit_variance_and_no_correlation(gain: float) -> None:
    noise = gain * correlated_noise(5, 300)[0].to(torch.complex64)
    whitened = apply(whitening_matrix(noise_covariance(noise)), noise)
    assert whitened.dtype == torch.complex64
    assert torch.allclose(noise_covariance(whitened), torch.eye(5) + 0j, atol=1e-4)


def test_coils_of_very_different_gain_are_whitened_not_refused() -> None:
    gains = torch.tensor([1.0, 1e-3, 1e4, 1e-2], dtype=torch.complex64)[:, None]
    noise = gains * correlated_noise(4, 500)[0].to(torch.complex64)
    whitened = apply(whitening_matrix(noise_covariance(noise)), noise)
    assert torch.allclose(noise_covariance(whitened), torch.eye(4) + 0j, atol=1e-4)


def test_gadgetron_scale_gives_unit_variance_to_each_part_of_the_imaging_noise() -> None:
    # A receiver that passes 0.793 of the sampled band. Imaging samples take four times as long as
    # those of the noise scan and lie well inside the band: per sample a quarter of the full power.
    generator = torch.Generator().manual_seed(3)
    power_full_band = 5.0
    noise = math.sqrt(0.793 * power_full_band) * torch.randn(
        1, 100_000, dtype=torch.complex128, generator=generator
    )
    imaging = math.sqrt(power_full_band / 4) * torch.randn(
        1, 100_000, dtype=torch.complex128, generator=generator
    )
    matrix = whitening_matrix(noise_covariance(noise), gadgetron_scale(8.0, 2.0))
    whitened = apply(matrix, imaging)
    assert whitened.real.var().item() == pytest.approx(1, rel=0.02)
    assert whitened.imag.var().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("dim", [0, 1, -3, -1])
def test_apply_is_the_matrix_product_on_the_coil_axis_whichever_it_is(dim: int) -> None:
    matrix = correlated_noise(4, 9)[1]
    data = torch.zeros((4, 5, 3, 6), dtype=torch.complex128).movedim(0, dim)
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(data.shape, dtype=data.dtype, generator=generator)
    got = apply(matrix, data, dim=dim).movedim(dim, 0)
    want = torch.einsum("ij,jabc->iabc", matrix, data.movedim(dim, 0))
    assert torch.allclose(got, want)
    assert linearity_gap(lambda x: apply(matrix, x, dim=dim), data) < 1e-12
    assert (
        adjoint_gap(
            lambda x: apply(matrix, x, dim=dim), lambda y: apply(matrix.mH, y, dim=dim), data, data
        )
        < 1e-12
    )


def test_real_noise_scan_becomes_white(shared: Path) -> None:
    with h5py.File(shared / "data" / "raw" / "phantom_16ch_cloudmr.h5") as file:
        noise = torch.from_numpy(file["noise"][()]).flatten(1)
    half = noise.shape[1] // 2
    matrix = whitening_matrix(noise_covariance(noise[:, :half]))
    unseen = noise_covariance(apply(matrix, noise[:, half:]))
    raw = noise_covariance(noise[:, half:])
    correlation = raw / raw.diagonal().real.sqrt().outer(raw.diagonal().real.sqrt())
    off_diagonal = ~torch.eye(16, dtype=torch.bool)
    assert correlation[off_diagonal].abs().max() > 0.2
    assert unseen[off_diagonal].abs().max() < 0.05
    assert (unseen.diagonal().real - 1).abs().max() < 0.05


def test_too_few_or_unusable_noise_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="more samples than its 8 coils, got 8"):
        noise_covariance(torch.ones(8, 8, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"expected complex .* got torch.float32 \(2, 9\)"):
        noise_covariance(torch.ones(2, 9))
    with pytest.raises(ValueError, match="finite"):
        noise_covariance(torch.full((2, 9), math.nan, dtype=torch.complex64))


def test_dead_coil_is_named() -> None:
    noise, _ = correlated_noise(5, 100)
    noise[3] = 0
    with pytest.raises(ValueError, match="none in coil 3 of 5"):
        whitening_matrix(noise_covariance(noise))
    noise[1] = 0
    with pytest.raises(ValueError, match="none in coil 1, 3 of 5"):
        whitening_matrix(noise_covariance(noise))
    with pytest.raises(ValueError, match="none in coil 0, 1 of 2"):
        whitening_matrix(torch.zeros(2, 2, dtype=torch.complex64))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_coil_that_copies_others_is_named(dtype: torch.dtype) -> None:
    noise = correlated_noise(5, 100)[0].to(dtype)
    noise[2] = 0.5 * noise[0] - 2j * noise[1]
    with pytest.raises(ValueError, match=r"coil 2 .* combination"):
        whitening_matrix(noise_covariance(noise))


def test_matrix_that_is_no_covariance_is_refused() -> None:
    indefinite = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 2.0, 1.0]]) + 0j
    with pytest.raises(ValueError, match=r"positive definite .* coil 2"):
        whitening_matrix(indefinite)


def test_wrong_coil_count_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="for 4 coils, data has 3"):
        apply(torch.eye(4) + 0j, torch.ones(3, 8) + 0j)


def test_dwell_times_that_are_not_positive_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0.0 us, 2.0 us and 0.793"):
        gadgetron_scale(0.0, 2.0)


@pytest.mark.parametrize("dwell", [(0.0, 2.0), (8.0, 0.0), (-1.0, 2.0)])
def test_without_both_dwell_times_there_is_no_scale(dwell: tuple[float, float]) -> None:
    assert scale_for(*dwell) == 1
    assert scale_for(8.0, 2.0, 0.8) == gadgetron_scale(8.0, 2.0, 0.8) == pytest.approx(6.4**0.5)
