import h5py
import numpy as np
import torch

from mnet.physics.prewhiten import apply, noise_covariance
from tests.training.helpers import fake_fastmri as fake
from training.data.fastmri import samples
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


def test_whitening_from_the_corners_undoes_correlated_noise(tmp_path):
    shape = (1, 4, 320, 368)
    data = fake.kspace(shape, noise=0.0)
    mixing, noise = mixed_noise(*shape[1:])
    data = data + (1e-7 * noise * fake.window(368)).astype(np.complex64)
    fake.write(tmp_path / "a.h5", shape, data=data)
    matrix, source = whitening(read_volume(tmp_path / "a.h5"))
    assert source == "corners of k-space"
    white = matrix.numpy() @ mixing
    covariance = white @ white.conj().T
    covariance /= np.trace(covariance).real / 4
    np.testing.assert_allclose(covariance, np.eye(4), atol=0.15)


def test_corners_that_hold_signal_are_not_taken_for_noise(tmp_path):
    fake.write(tmp_path / "a.h5", data=fake.kspace(fake.TINY, noise=0.0))
    volume = read_volume(tmp_path / "a.h5")
    assert whitening(volume)[0] is None
    assert "more than noise" in whitening(volume)[1]
    next(samples(volume, 2.0))


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


def test_corners_bring_the_noise_scan_of_a_real_phantom_nearer_to_white(shared):
    path = shared / "data" / "raw" / "phantom_16ch_cloudmr.h5"
    with h5py.File(path, "r") as file:
        noise = torch.from_numpy(file["noise"][()].reshape(16, -1))
    matrix, source = whitening(read_volume(path))
    assert source == "corners of k-space"
    noise = noise / noise.abs().max()
    before = correlation(noise_covariance(noise)) - torch.eye(16)
    after = correlation(noise_covariance(apply(matrix, noise))) - torch.eye(16)
    # Measured: 0.0149 of 0.0266 is left; 288 samples of the noise scan itself would leave 0.0036.
    assert float(after.abs().square().mean()) < float(before.abs().square().mean())
