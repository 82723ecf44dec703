from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from mnet.physics import sense
from mnet.physics.fourier import fourier, inverse_fourier
from tests.training.helpers.generated import volumes
from training.data import simulate
from training.data.simulate import Size

SIZE = Size(n_x=48, n_ky=91, n_coils=5)


def scan(seed: int, size: Size = SIZE) -> simulate.SimulatedScan:
    return simulate.simulate(volumes(), size, np.random.default_rng(seed))


def test_a_scan_follows_from_its_seed():
    first, again, other = scan(1), scan(1), scan(2)
    assert torch.equal(first.signal, again.signal)
    assert torch.equal(first.csm, again.csm)
    assert np.array_equal(first.acquirable, again.acquirable)
    assert first.noise == again.noise
    assert not torch.equal(first.signal, other.signal)


def test_the_maps_have_unit_norm_inside_the_object_and_are_zero_outside():
    norm = scan(0).csm.abs().square().sum(0).sqrt()
    inside = norm > 0
    assert 0.15 < inside.float().mean() < 0.95
    torch.testing.assert_close(norm[inside], torch.ones_like(norm[inside]))


def test_the_true_maps_explain_the_signal():
    for seed in range(4):
        found = scan(seed)
        rows = torch.from_numpy(found.acquirable).float()
        image = sense.adjoint(found.signal, found.csm, torch.ones_like(rows))
        if found.drawn.folded or not (found.acquirable.all() and found.echo.all()):
            continue  # then the image is folded or blurred, and the maps are not
        again = sense.forward(image, found.csm, rows)
        assert (again - found.signal).norm() / found.signal.norm() < 0.06


def test_k_space_is_not_hermitian():
    size = Size(n_x=48, n_ky=65, n_coils=1)
    signal = scan(0, size).signal[0]
    mirrored = signal.flip(-1).conj()  # a real image would equal this up to the sign of x phases
    assert (signal.abs() - mirrored.abs()).norm() / signal.norm() > 0.05


def test_nothing_is_measured_where_lines_are_not_acquirable():
    for seed in range(12):
        found = scan(seed)
        measured = found.measure(np.random.default_rng(0))
        assert measured[..., ~found.acquirable].abs().sum() == 0
        assert (measured[..., found.acquirable].abs() > 0).all()


def test_the_noise_is_white_with_the_stated_variance():
    found = scan(4, Size(n_x=64, n_ky=96, n_coils=4))
    rng = np.random.default_rng(0)
    noise = torch.stack([found.measure(rng) - found.signal for _ in range(8)])
    noise = noise[..., found.acquirable].movedim(1, 0).flatten(1)
    assert found.echo.all()
    covariance = noise @ noise.mH / noise.shape[1] / found.noise**2
    torch.testing.assert_close(covariance, torch.eye(4) + 0j * covariance, rtol=0, atol=0.02)


def test_measuring_again_draws_new_noise():
    found, rng = scan(0), np.random.default_rng(0)
    assert not torch.equal(found.measure(rng), found.measure(rng))


def test_edges_leave_room_to_calibrate():
    rng = np.random.default_rng(0)
    for n_ky in (32, 64, 70, 90):
        left = [simulate.draw_acquirable(n_ky, rng).sum() for _ in range(100)]
        assert min(left) >= min(n_ky, 64)


def test_about_a_third_of_the_scans_have_padded_edges_within_the_stated_range():
    rng = np.random.default_rng(0)
    fractions = np.array([simulate.draw_acquirable(200, rng).mean() for _ in range(4000)])
    assert np.mean(fractions < 1) == pytest.approx(0.3, abs=0.03)
    assert fractions.min() > 0.75
    assert np.median(fractions[fractions < 1]) == pytest.approx(0.87, abs=0.02)


def test_four_in_ten_scans_have_the_reference_size_all_measured():
    rng = np.random.default_rng(0)
    sizes = [simulate.draw_size(rng) for _ in range(1000)]
    reference = [s for s in sizes if not s.edges]
    assert {s.n_ky for s in reference} == {160}
    assert len(reference) / 1000 == pytest.approx(0.4, abs=0.05)


def test_rows_and_coils_span_what_scanners_send():
    rng = np.random.default_rng(0)
    sizes = [simulate.draw_size(rng) for _ in range(2000)]
    assert {s.n_ky % 2 for s in sizes} == {s.n_x % 2 for s in sizes} == {0, 1}
    assert min(s.n_ky for s in sizes) < 70
    assert max(s.n_ky for s in sizes) > 375
    counts = {n: sum(s.n_coils == n for s in sizes) for n in (1, 2, 4, 8, 12, 16, 20, 32, 64)}
    assert sum(counts.values()) == 2000
    assert min(counts.values()) / 2000 > 0.025


@pytest.mark.parametrize(("reference", "largest"), [(160, 384), (72, 100), (320, 368), (56, 64)])
def test_no_size_exceeds_the_largest_or_falls_below_the_smallest(reference, largest):
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = simulate.draw_size(rng, reference, largest)
        assert min(64, reference) <= size.n_ky <= largest
        assert min(64, reference) <= size.n_x <= largest


def test_noise_is_that_of_real_scans_and_seldom_louder():
    # whitened noise of real heads is 0.0005 to 0.06 of the mean brightness
    rng = np.random.default_rng(0)
    noise = np.array([simulate.draw_noise(8, rng) for _ in range(4000)])
    assert noise.min() > 0.0005
    assert noise.max() < 0.2
    assert np.mean(noise > 0.06) == pytest.approx(0.1, abs=0.02)
    usual = np.log(noise[noise < 0.06])
    assert np.median(usual) == pytest.approx(np.log(0.0005 * 0.06) / 2, abs=0.15)
    single = np.array([simulate.draw_noise(1, rng) for _ in range(1000)])
    assert np.mean(single > 0.06) == pytest.approx(0.4, abs=0.05)


def test_brightness_is_the_unit_of_the_noise():
    for seed in range(6):
        found = scan(seed)
        image = inverse_fourier(found.signal, dim=-1).abs().square().sum(0).sqrt()
        inside = found.csm.abs().any(0)
        if found.acquirable.all():
            assert float(image[inside].mean()) == pytest.approx(1, rel=1e-3)


def test_of_a_large_array_a_few_virtual_coils_are_kept():
    assert scan(0, Size(n_x=48, n_ky=65, n_coils=16)).signal.shape[0] == 16
    for n_coils in (20, 64):
        found = scan(0, Size(n_x=48, n_ky=65, n_coils=n_coils))
        assert found.signal.shape == found.csm.shape == (12, 48, 65)
        assert found.drawn.n_coils == n_coils


@lru_cache
def small_scans(n_coils: int = 2) -> list[simulate.SimulatedScan]:
    small, head = Size(n_x=40, n_ky=32, n_coils=n_coils, edges=False), volumes(size=32)
    rngs = (np.random.default_rng(seed) for seed in range(250))
    return [simulate.simulate(head, small, rng) for rng in rngs]


def test_about_one_scan_in_twelve_overflows_its_field_of_view():
    share = np.mean([found.drawn.folded for found in small_scans()])
    assert 0.025 < share < 0.13  # 0.08 are drawn to, most do; 0.017 is a deviation


def test_of_scans_with_one_coil_a_fifth_overflows():
    share = np.mean([found.drawn.folded for found in small_scans(1)])
    assert 0.12 < share < 0.36  # 0.3 are drawn to, most do; 0.03 is a deviation


def test_half_of_the_scans_have_texture_and_it_changes_nothing_else(monkeypatch):
    drawn = []
    monkeypatch.setattr(simulate, "texture", lambda shape, rng: drawn.append(shape) or 1)
    for seed in range(40):
        scan(seed)
    assert 11 <= len(drawn) <= 29  # 20; 3.2 is a deviation


def test_what_overflows_lies_outside_the_scan_s_pixels(monkeypatch):
    monkeypatch.setattr(simulate, "FOLDED", 1.0)
    folded = [scan(seed, Size(n_x=48, n_ky=64, n_coils=2)) for seed in range(10)]
    assert all(found.signal.shape == (2, 48, 64) for found in folded)
    assert sum(found.drawn.folded for found in folded) >= 7
    monkeypatch.setattr(simulate, "FOLDED", 0.0)
    assert not any(scan(seed, SIZE).drawn.folded for seed in range(5))


def test_a_folded_image_is_that_of_every_second_line_of_twice_the_field_of_view():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(2, 3, 64)) + 1j * rng.normal(size=(2, 3, 64)))
    sparse = fourier(image, dim=-1)[..., ::2] * 2**0.5  # orthonormal: half as many samples
    torch.testing.assert_close(fourier(simulate.folded(image, 32), dim=-1), sparse)


def test_an_object_that_fits_is_not_changed_by_folding():
    image = torch.zeros(1, 4, 50)
    image[..., 15:36] = 1
    torch.testing.assert_close(simulate.folded(image, 31), image[..., 10:41])


def test_an_object_moves_within_its_field_of_view():
    image = torch.zeros(40, 60)
    image[12:30, 20:41] = 1
    places = []
    for seed in range(60):
        shifted, (_, down) = simulate.moved(image, np.random.default_rng(seed))
        assert shifted.sum() == image.sum()
        where = torch.nonzero(shifted.any(0)).flatten()
        assert where[-1] - where[0] == 20  # not wrapped around the edge
        assert down * 30 == pytest.approx(float(where[0] - 20), abs=1e-5)
        places.append(int(where[0]))
    assert min(places) < 8
    assert max(places) > 31


def test_a_partial_echo_leaves_neither_signal_nor_noise_in_what_is_not_measured():
    partial = [found for found in small_scans() if not found.echo.all()]
    assert 2 <= len(partial) <= 20  # 4 % of 250 are drawn
    for found in partial:
        kspace = fourier(found.measure(np.random.default_rng(0)), dim=-2)
        assert 0.6 < found.echo.mean() < 0.95
        assert kspace[:, ~found.echo].abs().max() < 1e-5 * kspace.abs().max()
        noise = fourier(found.measure(np.random.default_rng(0)) - found.signal, dim=-2)
        noise = noise[:, found.echo][..., found.acquirable]
        assert float(noise.abs().square().mean().sqrt()) == pytest.approx(found.noise, rel=0.1)


def test_the_smooth_phase_of_complex_volumes_is_used_where_there_are_any(monkeypatch):
    monkeypatch.setattr(simulate, "MEASURED", 1.0)
    plain = volumes()[0]
    steep = np.broadcast_to(np.linspace(0, 30, plain.data.shape[2]), plain.data.shape)
    complex_one = replace(plain, phase=np.exp(1j * steep).astype(np.complex64))
    assert simulate.random_phase([plain], np.random.default_rng(0)) is None
    image = simulate.random_phase([plain, complex_one], np.random.default_rng(0))
    assert image.shape == plain.data.shape[1:]
    size = Size(n_x=64, n_ky=64, n_coils=1, edges=False)
    slopes = []
    for volume in (plain, complex_one):
        found = simulate.simulate([volume], size, np.random.default_rng(2))
        image = inverse_fourier(found.signal, dim=-1)[0]
        step = (image[:, 1:] * image[:, :-1].conj()).angle()[found.csm[0, :, 1:].abs() > 0]
        slopes.append(float(step.abs().median()))
    assert slopes[1] > slopes[0] + 0.1  # 30 rad over 64 pixels are 0.47 a pixel


def test_the_transmit_field_is_brightest_in_the_middle_of_the_object():
    field = simulate.transmitted((40, 50), (0.5, 0.0), np.random.default_rng(1))
    assert field.shape == (40, 50)
    place = int(field.argmax())
    assert abs(place // 50 - 29) <= 1  # 0.5 in halves of 40 pixels beyond the middle
    assert abs(place % 50 - 24) <= 1
