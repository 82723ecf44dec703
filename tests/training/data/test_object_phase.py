import numpy as np
import pytest
import torch

from training.data import object_phase


def disc(n=64):
    x, y = torch.meshgrid(torch.linspace(-2, 2, n), torch.linspace(-2, 2, n), indexing="ij")
    return (x**2 + y**2 < 1).float()


def test_the_smooth_phase_is_smooth():
    phase = object_phase.smooth_phase((64, 80), np.random.default_rng(0))
    assert (phase[1:] - phase[:-1]).abs().max() < 1.0  # rad a pixel


def test_a_ramp_moves_the_echo_by_five_samples_at_most():
    moved = []
    for seed in range(40):
        ramp = object_phase.ramp((32, 48), (32, 48), np.random.default_rng(seed))
        kspace = torch.fft.fft2(torch.polar(torch.ones(32, 48), ramp)).abs()
        row = int(kspace.argmax()) % 48
        moved.append(min(row, 48 - row))
    assert max(moved) in (4, 5)
    assert np.mean(np.array(moved) <= 1) > 0.5


def test_the_susceptibility_of_a_disc_is_uniform_inside_and_a_dipole_outside():
    # a cylinder across the field: uniform inside, cos(2 angle) / r^2 outside
    field = object_phase.susceptibility(disc(), np.random.default_rng(1))
    inside = field[28:36, 28:36]
    assert float(inside.std()) < 0.1 * float(field.std())
    near = field[disc() == 0].abs().max()
    far = field[0].abs().max()
    assert float(far) < 0.4 * float(near)  # twice as far away: a quarter


@pytest.mark.parametrize("seed", range(4))
def test_susceptibility_bends_the_phase_near_edges_most(seed):
    field = object_phase.susceptibility(disc(), np.random.default_rng(seed))
    steps = (field[1:] - field[:-1]).abs()
    rim = disc()[1:] != disc()[:-1]
    assert float(steps[rim].mean()) > 3 * float(steps[~rim].mean())


def test_most_scans_have_little_susceptibility_and_some_much():
    strengths = [
        float(object_phase.susceptibility(disc(32), np.random.default_rng(seed)).std())
        for seed in range(60)
    ]
    assert np.quantile(strengths, 0.9) > 4 * np.quantile(strengths, 0.1)
