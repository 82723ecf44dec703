import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet import features as f
from mnet.masks import Lines


def slices(n_lines: int = 16, n: int = 2, n_x: int = 40, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (n, 5, n_x, n_lines)
    return f.features(torch.randn(size, dtype=torch.complex64, generator=generator))


def test_features_line_by_line_are_the_features_of_all_lines():
    block = torch.randn(2, 5, 12, 7, dtype=torch.complex64)
    together = f.features(block)
    assert together.shape == (2, 3, 12, 7)
    for i in range(7):
        torch.testing.assert_close(together[..., i], f.line_features(block[..., i]))


def test_the_mean_feature_is_the_plain_mean_over_coils():
    block = torch.randn(2, 5, 12, 7, dtype=torch.complex64)
    z = f.features(block).numpy()
    np.testing.assert_allclose(z[:, 0] + 1j * z[:, 1], block.numpy().mean(1), atol=1e-6)


def test_the_energy_feature_survives_coil_phases_that_cancel_the_mean():
    line = torch.tensor([1, -1, 1j, -1j], dtype=torch.complex64)[:, None].expand(4, 6)
    real, imaginary, energy = f.line_features(line)
    assert real.abs().max() == 0
    assert imaginary.abs().max() == 0
    torch.testing.assert_close(energy, torch.ones(6))


@settings(max_examples=20, deadline=None)
@given(n_x=st.integers(4, 150), n_lines=st.integers(1, 40))
def test_normalised_features_have_one_length_along_x_and_statistics_one_width(n_x, n_lines):
    z = slices(n_lines, 2, n_x)
    assert f.normalise(z).shape == (2, f.N_FEATURES, f.GRID_X, n_lines)
    assert f.statistics(z).shape == (2, f.N_STATISTICS)


@pytest.mark.parametrize("scale", [1e-6, 1e4])
@pytest.mark.parametrize("function", [f.normalise, f.statistics])
def test_neither_depends_on_the_scale_of_the_lines(function, scale):
    z = slices()
    torch.testing.assert_close(function(z * scale), function(z), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("function", [f.normalise, f.statistics])
def test_a_slice_s_values_do_not_depend_on_its_batch(function):
    z = slices(n=3)
    z[0] *= 100
    torch.testing.assert_close(function(z)[1:2], function(z[1:2]))


@pytest.mark.parametrize("function", [f.normalise, f.statistics])
def test_a_silent_slice_has_finite_values(function):
    assert torch.isfinite(function(slices() * 0)).all()


def test_statistics_see_on_which_side_the_energy_lies():
    z = slices()
    z[..., 8:] *= 10
    along, difference = f.statistics(z)[:, :12], f.statistics(z)[:, 12:24]
    assert (along[:, 8:].mean(1) - along[:, :4].mean(1)).min() > 1  # a hundredfold power
    assert difference[:, 0].min() > 1
    torch.testing.assert_close(difference, -difference.flip(1))


@pytest.mark.parametrize(("n", "acceleration", "n_coils"), [(128, 4.0, 4), (256, 8.0, 16)])
def test_a_plan_s_scalars_say_acceleration_size_calibration_and_coils(n, acceleration, n_coils):
    lines = Lines.plan(np.ones(n, dtype=bool), acceleration)
    scalars = f.plan_scalars(lines, n_coils)
    assert len(scalars) == f.N_SCALARS
    expected = [
        np.log2(acceleration),
        np.log2(n / 128),
        lines.calibration.sum() / lines.n_lines,
        np.log2(n_coils) / 2,
    ]
    np.testing.assert_allclose(scalars, expected)
