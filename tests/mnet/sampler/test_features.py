import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet.masks.line_plan import LinePlan
from mnet.physics.fourier import fourier
from mnet.sampler import features as f


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


@pytest.mark.parametrize(("n", "acceleration"), [(128, 4.0), (256, 8.0)])
def test_a_plan_s_scalars_say_acceleration_size_and_calibration(n, acceleration):
    lines = LinePlan.of(np.ones(n, dtype=bool), acceleration)
    expected = [
        np.log2(acceleration),
        np.log2(n / 128),
        lines.calibration.sum() / lines.n_lines,
    ]
    np.testing.assert_allclose(f.plan_scalars(lines), expected)


def block(n: int = 2, n_coils: int = 4, n_x: int = 40, n_lines: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn((n, n_coils, n_x, n_lines), dtype=torch.complex64, generator=generator)


@settings(max_examples=20, deadline=None)
@given(n_coils=st.integers(1, 32), n_x=st.integers(1, 200), n_lines=st.integers(1, 60))
def test_coil_features_are_finite_for_any_slice_and_begin_with_the_count(n_coils, n_x, n_lines):
    found = f.coil_features(block(2, n_coils, n_x, n_lines))
    assert found.shape == (2, f.N_COIL_FEATURES)
    assert torch.isfinite(found).all()
    assert found[:, 0].tolist() == [n_coils, n_coils]
    assert torch.isfinite(f.coil_features(torch.zeros(1, n_coils, n_x, n_lines) + 0j)).all()


def test_coil_features_depend_on_neither_scale_nor_the_coils_phases_nor_the_batch():
    lines = block()
    phases = torch.exp(1j * torch.arange(4.0))[:, None, None]
    expected = f.coil_features(lines)
    for scale in (1e-18, 1e-9, 1e3, 1e10, 1e14):
        torch.testing.assert_close(f.coil_features(scale * lines), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(f.coil_features(phases * lines), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(f.coil_features(lines[1:]), expected[1:], rtol=1e-4, atol=1e-4)


def test_coils_that_are_alike_cannot_tell_aliases_apart_and_localised_ones_can():
    image = torch.ones(1, 8, 48, dtype=torch.complex64)
    alike = image.expand(2, 8, 48)
    half = torch.arange(48) < 24
    apart = torch.stack([image[0] * half, image[0] * ~half])
    found = f.coil_features(fourier(torch.stack([alike, apart]), -1))
    overlap = 1  # of aliases half the field of view apart
    assert found[0, overlap] == pytest.approx(1.0, abs=1e-4)
    assert found[1, overlap] == pytest.approx(0.0, abs=1e-4)
    effective = 1 + 2 * len(f.SHIFTS)
    assert found[0, effective] == pytest.approx(1.0, abs=1e-3)
    assert found[1, effective] == pytest.approx(2.0, abs=1e-3)


def coil_features_by_definition(lines: np.ndarray) -> list[float]:
    """Write out what they mean, for one slice (coils, 32, 48) of as many lines as points."""
    images = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(lines, axes=-1), norm="ortho"), axes=-1)
    energy = (np.abs(images) ** 2).sum(0)
    unit = images / np.sqrt(energy)
    values = [float(len(lines))]
    for j, r in f.SHIFTS:
        shift = round(48 * j / r)
        weight = np.sqrt(energy * np.roll(energy, shift, -1))
        alike = np.abs((unit.conj() * np.roll(unit, shift, -1)).sum(0)) ** 2
        values += [(weight * alike).sum() / weight.sum(), weight.sum() / energy.sum()]
    flat = images.reshape(len(lines), -1)
    share = np.linalg.eigvalsh(flat @ flat.conj().T)
    values.append(share.sum() ** 2 / (share**2).sum())
    power = (np.abs(lines) ** 2).mean(0)
    levels = np.array([0.02, 0.1, 0.3], np.float32).astype(float)  # which torch rounds to
    return values + list(np.log10(np.quantile(power / power.mean(), levels)))


@pytest.mark.parametrize("n_coils", [1, 4, 15])
def test_coil_features_are_what_their_definition_says(n_coils):
    rng = np.random.default_rng(n_coils)
    lines = rng.normal(size=(2, n_coils, 32, 48)) * rng.uniform(0.1, 1, (n_coils, 1, 48))
    lines = lines[0] + 1j * lines[1]
    found = f.coil_features(torch.from_numpy(lines)[None])[0]
    np.testing.assert_allclose(found, coil_features_by_definition(lines), rtol=1e-9)


def test_coil_features_need_only_their_points_of_the_readout():
    lines = torch.randn(1, 5, 320, 30, dtype=torch.complex64)
    thin = lines[..., f.coil_points(320), :]
    torch.testing.assert_close(f.coil_features(thin), f.coil_features(lines), rtol=0, atol=0)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 300), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_quantiles_are_those_of_torch(n, batch, seed):
    values = torch.randn(batch, n, generator=torch.Generator().manual_seed(seed))
    levels = (0.0, 0.01, 0.3, 0.5, 0.95, 1.0)
    expected = torch.quantile(values, torch.tensor(levels), dim=1).T
    found = torch.from_numpy(f._quantiles(values.numpy(), levels))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "n"), [(320, 16), (24, 12), (17, 12), (5, 12), (48, 12)])
def test_parts_are_averaged_as_torch_pools(size, n):
    values = torch.randn(3, size, generator=torch.Generator().manual_seed(size))
    expected = torch.nn.functional.adaptive_avg_pool1d(values[:, None], n)[:, 0]
    found = torch.from_numpy(f.pooled(values.numpy(), n))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_line_in_numpy_has_the_features_that_it_has_in_torch():
    line = torch.randn(15, 320, dtype=torch.complex64)
    expected = f.line_features(line)
    torch.testing.assert_close(torch.from_numpy(f.seen_of(line.numpy())), expected)
