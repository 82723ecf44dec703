import pytest
import torch

from mnet.recon.phase import surrounding_phase


def images(n_x=12, n_y=15):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, n_x, n_y, dtype=torch.complex64, generator=generator)


def test_it_has_unit_modulus_and_is_one_where_there_is_nothing():
    assert torch.equal(surrounding_phase(torch.zeros_like(images())), torch.ones_like(images()))
    torch.testing.assert_close(surrounding_phase(images()).abs(), torch.ones(2, 12, 15))


@pytest.mark.parametrize("step", [1, 7])
def test_it_moves_with_the_image_along_ky_which_comes_round(step):
    moved = surrounding_phase(images().roll(step, -1))
    torch.testing.assert_close(moved, surrounding_phase(images()).roll(step, -1))


def test_it_turns_with_the_image_and_its_conjugate_is_that_of_the_conjugate():
    phase = surrounding_phase(images())
    turn = torch.polar(torch.tensor(2.0), torch.tensor(1.1))
    torch.testing.assert_close(surrounding_phase(turn * images()), phase * turn / 2)
    torch.testing.assert_close(surrounding_phase(images().conj().clone()), phase.conj())


def test_it_follows_half_a_turn_in_ten_pixels_and_ignores_noise_of_a_tenth():
    ramp = torch.polar(torch.ones(40), torch.pi / 10 * torch.arange(40.0)).expand(1, 30, 40)
    found = surrounding_phase(ramp + 0.1 * images(30, 40)[:1])
    inner = (found * ramp.conj())[:, 2:-2, 4:-4].angle()
    # 16 pixels or so are averaged: 0.1 / sqrt(2) / 4 in each of two directions
    assert float(inner.std()) < 0.03
