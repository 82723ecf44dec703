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


def test_a_ramp_moves_the_echo_by_two_and_a_half_samples_at_most():
    moved = []
    for seed in range(40):
        ramp = object_phase.ramp((32, 48), (32, 48), np.random.default_rng(seed))
        kspace = torch.fft.fft2(torch.polar(torch.ones(32, 48), ramp)).abs()
        row = int(kspace.argmax()) % 48
        moved.append(min(row, 48 - row))
    assert max(moved) in (2, 3)
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


def test_few_scans_have_no_phase_but_one_for_all_pixels():
    drawn = [
        object_phase.object_phase(disc(32), np.random.default_rng(seed), (32, 32))
        for seed in range(200)
    ]
    flat = np.mean([float(phase.std()) < 1e-6 for phase in drawn])
    assert 0.01 < flat < 0.12  # 0.06; 0.017 is a deviation


def test_most_scans_have_little_susceptibility_and_some_much():
    strengths = [
        float(object_phase.susceptibility(disc(32), np.random.default_rng(seed)).std())
        for seed in range(60)
    ]
    assert np.quantile(strengths, 0.9) > 4 * np.quantile(strengths, 0.1)


def test_the_phase_of_a_measured_image_is_kept_where_there_is_signal():
    x, y = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-1, 1, 50), indexing="ij")
    true = 1.5 * x - y + 0.8 * x * y
    inside = x**2 + y**2 < 0.7
    noise = torch.randn(60, 50, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    image = torch.polar(inside.float(), true) + 0.02 * noise
    found = object_phase.measured_phase(image, (60, 50))
    apart = torch.polar(torch.ones(60, 50), found - true).angle()
    well_inside = x**2 + y**2 < 0.5
    assert float(apart[well_inside].abs().max()) < 0.3
    steps = torch.polar(torch.ones(59, 50), found[1:] - found[:-1]).angle()
    assert float(steps.abs().quantile(0.95)) < 0.5  # smooth outside too
