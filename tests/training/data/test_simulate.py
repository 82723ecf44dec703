import numpy as np
import pytest
import torch

from mnet.physics import sense
from tests.training.helpers.generated import volumes
from training.data import simulate
from training.data.simulate import Size

SIZE = Size(n_x=48, n_ky=65, n_coils=5)


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
        if not found.acquirable.all():
            continue  # then the image is blurred, and the maps are not
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
    found = scan(3, Size(n_x=64, n_ky=96, n_coils=4))
    rng = np.random.default_rng(0)
    noise = torch.stack([found.measure(rng) - found.signal for _ in range(8)])
    noise = noise[..., found.acquirable].movedim(1, 0).flatten(1)
    covariance = noise @ noise.mH / noise.shape[1] / found.noise**2
    torch.testing.assert_close(covariance, torch.eye(4) + 0j * covariance, rtol=0, atol=0.02)


def test_measuring_again_draws_new_noise():
    found, rng = scan(0), np.random.default_rng(0)
    assert not torch.equal(found.measure(rng), found.measure(rng))


def test_about_a_third_of_the_scans_have_padded_edges_within_the_stated_range():
    rng = np.random.default_rng(0)
    fractions = np.array([simulate.draw_acquirable(200, rng).mean() for _ in range(4000)])
    assert np.mean(fractions < 1) == pytest.approx(0.3, abs=0.03)
    assert fractions.min() > 0.75
    assert np.median(fractions[fractions < 1]) == pytest.approx(0.87, abs=0.02)


def test_four_in_ten_scans_have_the_reference_size_all_measured():
    rng = np.random.default_rng(0)
    sizes = [simulate.draw_size(rng) for _ in range(1000)]
    reference = [s for s in sizes if s.n_ky == 160 and not s.edges]
    assert len(reference) / 1000 == pytest.approx(0.4, abs=0.05)
    assert all(s.edges for s in sizes if s.n_ky != 160)


def test_sizes_span_what_scanners_send():
    rng = np.random.default_rng(0)
    sizes = [simulate.draw_size(rng) for _ in range(500)]
    assert {s.n_ky % 2 for s in sizes} == {s.n_x % 2 for s in sizes} == {0, 1}
    assert min(s.n_ky for s in sizes) < 116
    assert max(s.n_ky for s in sizes) == 256
    assert {s.n_coils for s in sizes} == {4, 6, 8, 10, 12, 16}
    assert any(s.n_coils == 4 and s.n_ky == 256 for s in sizes)


@pytest.mark.parametrize(("reference", "largest"), [(160, 256), (72, 100), (320, 368)])
def test_no_size_exceeds_the_largest_or_falls_far_below_the_reference(reference, largest):
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = simulate.draw_size(rng, reference, largest)
        assert round(0.7 * reference) <= size.n_ky <= largest
        assert int(0.7 * reference) <= size.n_x <= largest


def test_a_loop_s_field_on_its_axis_is_the_textbook_s():
    # B ~ a / (a^2 + d^2)^(3/2) for a wire element, along the axis; here x, seen at the origin
    distance, radius = 1.5, 0.5
    middle = np.array([distance, 1e-9, 1e-9])
    field = simulate.loop_field(middle, radius, grid=3, n_segments=200)[1, 1]
    # every one of the 200 unit segments adds its axial part, radius / r^3
    expected = 200 * radius / (radius**2 + distance**2) ** 1.5
    assert abs(field) == pytest.approx(expected, rel=1e-3)
    assert abs(field.imag) < 1e-6 * abs(field.real)


def test_a_coil_sees_most_of_what_is_near_it():
    field = np.abs(simulate.loop_field(np.array([1.3, 0.0, 0.0]), 0.5, grid=21))
    assert field[-1, 10] > 3 * field[10, 10] > 3 * field[0, 10]


def test_coil_maps_are_smooth():
    maps = simulate.coil_maps(8, (64, 80), np.random.default_rng(0))
    steps = (maps[:, 1:] - maps[:, :-1]).abs().square().mean().sqrt()
    assert steps < 0.15 * maps.abs().square().mean().sqrt()


def test_the_object_s_phase_is_smooth():
    phase = simulate.object_phase((64, 80), np.random.default_rng(0))
    assert (phase[1:] - phase[:-1]).abs().max() < 1.0
