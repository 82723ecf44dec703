import numpy as np
import pytest
import torch

from training.data import coil_arrays


def object_(shape=(48, 56)):
    x, y = torch.meshgrid(*(torch.linspace(-1.2, 1.2, n) for n in shape), indexing="ij")
    return (x**2 + y**2 < 1).float()


def test_a_loop_s_field_on_its_axis_is_the_textbook_s():
    # B ~ a / (a^2 + d^2)^(3/2) for a wire element, along the axis; here x, seen at the origin
    distance, radius = 1.5, 0.5
    place = np.array([distance, 1e-9, 1e-9])
    field = coil_arrays.loop_field(place, radius, grid=3, n_segments=200)[1, 1]
    # every one of the 200 unit segments adds its axial part, radius / r^3
    expected = 200 * radius / (radius**2 + distance**2) ** 1.5
    assert abs(field) == pytest.approx(expected, rel=1e-3)
    assert abs(field.imag) < 1e-6 * abs(field.real)


def test_a_coil_sees_most_of_what_is_near_it():
    field = np.abs(coil_arrays.loop_field(np.array([1.3, 0.0, 0.0]), 0.5, grid=21))
    assert field[-1, 10] > 3 * field[10, 10] > 3 * field[0, 10]


def test_coils_follow_the_object_that_they_surround():
    place, step = np.array([1.3, 0.4, 0.1]), np.array([0.1, -0.2, 0.0])
    still = coil_arrays.loop_field(place, 0.5, grid=21)
    gone = coil_arrays.loop_field(place, 0.5, 21, step)  # 0.1 is one of the 20 steps of the grid
    np.testing.assert_allclose(gone[1:, :-2], still[:-1, 2:], rtol=1e-9)


@pytest.mark.parametrize("n_coils", [1, 2, 8, 12, 64])
def test_coil_maps_are_smooth(n_coils):
    rng = np.random.default_rng(0)
    for _ in range(4):
        maps, _ = coil_arrays.draw_array(n_coils, object_(), rng)
        steps = (maps[:, 1:] - maps[:, :-1]).abs().square().mean().sqrt()
        # as a wave of half the field of view, 24 pixels: 2 pi / 24
        assert steps < 0.26 * maps.abs().square().mean().sqrt()


def test_noise_of_real_arrays_is_correlated_as_it_is_before_whitening():
    # two coils that see the same are told apart after whitening more than before
    alike = torch.ones(2, 24, 24, dtype=torch.complex64)
    alike[1, :12] = 1.2
    white = coil_arrays.whitened(alike, object_((24, 24)), np.random.default_rng(0))
    before, after = (torch.linalg.cond(maps.flatten(1)) for maps in (alike, white))
    assert float(after) < float(before)


def test_the_first_mode_of_a_volume_coil_is_almost_uniform_and_a_surface_coil_s_is_not():
    inside = object_((24, 24)) > 0
    rng, middle = np.random.default_rng(0), np.zeros(3)
    for _ in range(5):
        birdcage = np.abs(coil_arrays.volume(2, rng, middle)[0])[inside]
        assert birdcage.std() / birdcage.mean() < 0.3
        one_side = np.abs(coil_arrays.surface(1, rng, middle)[0])[inside]
        assert one_side.std() / one_side.mean() > 0.5


def test_virtual_coils_keep_the_signal():
    rng = np.random.default_rng(0)
    for _ in range(4):
        full = torch.from_numpy(coil_arrays.around(64, rng, np.zeros(3)).astype(np.complex64))
        inside = object_((24, 24))
        kept = coil_arrays.virtual(full, inside)
        assert kept.shape == (12, 24, 24)
        share = (kept * inside).abs().square().sum() / (full * inside).abs().square().sum()
        assert 0.97 < float(share) <= 1.0001  # rows are orthonormal: nothing is added
