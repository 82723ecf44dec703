import numpy as np
import pytest
import torch

from mnet.physics.fourier import inverse_fourier
from training.data.corner_noise import corner_noise, known_noise

ALL = np.ones(80, dtype=bool)


def white(seed=0, shape=(4, 96, 80)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.complex64, generator=generator)


def centre(width):
    """Signal that falls off from the middle of (kx, ky)."""
    x, y = torch.meshgrid(torch.arange(96.0) - 48, torch.arange(80.0) - 40, indexing="ij")
    return 1e4 * torch.exp(-(x**2 + y**2) / (2 * width**2))


@pytest.mark.parametrize("strength", [1e-7, 0.03, 1.0])
def test_the_corners_tell_the_noise_whatever_lies_in_the_middle(strength):
    kspace = strength * white() + strength * centre(6)
    hybrid = inverse_fourier(kspace.to(torch.complex64), dim=-2)
    # 4 coils, 10 x 8 samples: the quietest of four medians of 320 is some 10 % low
    assert corner_noise(hybrid, ALL) == pytest.approx(strength, rel=0.15)
    assert known_noise(hybrid, ALL) == corner_noise(hybrid, ALL)


def test_rows_and_samples_that_were_not_measured_do_not_count():
    kspace = white() + centre(6)
    rows = ALL.copy()
    rows[:9] = rows[-7:] = False
    kspace = kspace * torch.from_numpy(rows)
    kspace[:, :20] = 0  # partial echo
    hybrid = inverse_fourier(kspace, dim=-2)
    assert corner_noise(hybrid, rows) == pytest.approx(1, rel=0.15)


def test_noise_is_not_known_where_corners_hold_signal():
    hybrid = inverse_fourier(0.01 * white() + centre(20), dim=-2)
    assert known_noise(hybrid, ALL) == 0
