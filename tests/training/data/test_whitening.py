import numpy as np
import pytest
import torch

from mnet.physics.prewhiten import apply, noise_covariance
from tests.training.helpers import fake_fastmri as fake
from training.data.volume import read_volume
from training.data.whitening import whitening


def correlation(covariance):
    deviation = covariance.diagonal().real.sqrt()
    return covariance / deviation / deviation[:, None]


def mixed_noise(n_coils, n_kx, n_ky, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_coils, n_coils)) + 3 * np.eye(n_coils)
    white = rng.normal(size=(n_coils, n_kx * n_ky)) + 1j * rng.normal(size=(n_coils, n_kx * n_ky))
    return mixing, (mixing @ white).reshape(n_coils, n_kx, n_ky)


def test_without_a_noise_scan_nothing_is_whitened_as_in_the_pipeline(tmp_path):
    fake.write(tmp_path / "a.h5")
    assert whitening(read_volume(tmp_path / "a.h5")) == (None, "none: no noise scan")


def test_a_noise_scan_that_cannot_whiten_is_an_error_with_the_file_s_name(tmp_path):
    _, noise = mixed_noise(4, 40, 100)
    noise = noise.reshape(4, -1)
    noise[2] = 0
    fake.write_mrd(tmp_path / "b.h5", fake.kspace(fake.TINY), noise=noise)
    with pytest.raises(ValueError, match=r"b\.h5: the noise scan cannot whiten.*coil 2"):
        whitening(read_volume(tmp_path / "b.h5"))


def test_the_noise_scan_of_an_mrd_file_whitens_it(tmp_path):
    _, noise = mixed_noise(4, 40, 100)
    fake.write_mrd(tmp_path / "b.h5", fake.kspace(fake.TINY), noise=noise.reshape(4, -1))
    volume = read_volume(tmp_path / "b.h5")
    matrix, source = whitening(volume)
    assert source == "noise scan"
    white = apply(matrix, torch.from_numpy(volume.noise_readouts()[0].data))
    torch.testing.assert_close(
        correlation(noise_covariance(white)), torch.eye(4, dtype=white.dtype), atol=1e-4, rtol=0
    )
