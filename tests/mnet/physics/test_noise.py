import numpy as np
import pytest
import torch
from torch import Tensor

from mnet.physics.fourier import fourier
from mnet.physics.noise import noise_level

ROWS = 160


def scan(sigma: float, n_coils: int = 8, n_x: int = 128, seed: int = 0) -> Tensor:
    """Draw hybrid k-space (coils, x, ky) of a smooth disc, with noise of standard deviation."""
    rng = np.random.default_rng(seed)
    x, y = torch.linspace(-1, 1, n_x)[:, None], torch.linspace(-1, 1, ROWS)[None]
    disc = torch.sigmoid(20 * (0.6 - (x**2 + y**2).sqrt()))
    phase = torch.from_numpy(rng.uniform(-3, 3, (n_coils, 1, 1)).astype(np.float32))
    signal = fourier(disc * torch.exp(1j * phase * (x + y)), dim=-1)
    noise = rng.standard_normal((n_coils, n_x, ROWS, 2)).astype(np.float32)
    return signal + sigma / np.sqrt(2) * torch.view_as_complex(torch.from_numpy(noise))


def every(n: int) -> Tensor:
    mask = (torch.arange(ROWS) % n == 0).float()
    mask[ROWS // 2 - 10 : ROWS // 2 + 10] = 1
    return mask


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("acceleration", [1, 4, 8])
def test_the_level_of_white_noise_is_found_within_a_tenth(sigma, acceleration):
    # 8 coils, 16 samples at an end and 6 lines at the least: the median of 192 exponential
    # variables scatters by 10 % in power, of each of 8 coils
    found = float(noise_level(scan(sigma), every(acceleration)))
    assert found == pytest.approx(sigma, rel=0.1)


def test_without_noise_what_is_found_is_far_below_the_signal():
    clean = scan(0.0)
    assert float(noise_level(clean, every(4))) < 1e-3 * float(clean.abs().max())


def test_lines_that_were_not_acquired_say_nothing():
    kspace, mask = scan(0.1), every(4)
    hidden = torch.where(mask > 0, kspace, 1e3)
    assert torch.equal(noise_level(hidden, mask), noise_level(kspace, mask))


def test_a_readout_that_was_cut_short_still_has_its_noise():
    # a partial echo: the first quarter of kx was not measured
    readouts = fourier(scan(0.1), dim=-2)
    readouts[:, :32] = 0
    back = fourier(readouts.flip(-2).roll(1, -2), dim=-2)  # twice forward, mirrored: backward
    assert float(noise_level(back, every(4))) == pytest.approx(0.1, rel=0.1)


def test_the_level_has_the_unit_of_the_data():
    kspace, mask = scan(0.1), every(4)
    ratio = noise_level(1e-6 * kspace, mask) / noise_level(kspace, mask)
    assert float(ratio) == pytest.approx(1e-6, rel=1e-4)
