import pytest
import torch
from torch import Tensor

from mnet.physics import sense
from mnet.physics.fourier import fourier, inverse_fourier
from mnet.physics.noise import line_ends
from mnet.physics.prewhiten import apply
from mnet.recon.cg import data_consistency
from mnet.recon.modl import MoDL
from mnet.recon.noise_units import FLOOR, noise_units
from tests.mnet.helpers.operator_checks import random_like
from tests.mnet.helpers.small_problems import trained_looking

N_COILS, N_X, N_Y = 6, 96, 80


def scan(sigma: float, mixing: Tensor | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Hybrid k-space and maps of a disc of brightness 1; noise is `sigma` times `mixing`."""
    x, y = torch.linspace(-1, 1, N_X)[:, None], torch.linspace(-1, 1, N_Y)[None]
    disc = torch.sigmoid(30 * (0.6 - (x**2 + y**2).sqrt()))
    turns = torch.arange(N_COILS)[:, None, None] * torch.pi / 3
    fields = torch.exp(-((x - torch.cos(turns)) ** 2 + (y - torch.sin(turns)) ** 2) + 1j * turns)
    maps = fields / fields.abs().square().sum(0).sqrt()
    csm = torch.where(disc > 0.05, maps, 0).to(torch.complex64)
    white = random_like(torch.zeros(N_COILS, N_X, N_Y, dtype=torch.complex64), seed)
    noise = white if mixing is None else apply(mixing, white)
    return fourier(maps * disc, dim=-1).to(torch.complex64) + sigma * noise, csm


def shared_noise() -> Tensor:
    """Coils of which the loudest is ten times the quietest, and half of the noise is shared."""
    gains = torch.logspace(-0.5, 0.5, N_COILS)
    correlation = 0.5 * torch.ones(N_COILS, N_COILS) + 0.5 * torch.eye(N_COILS)
    covariance = correlation * torch.outer(gains, gains)
    return torch.linalg.cholesky(covariance).to(torch.complex64)


EVERY = torch.ones(N_Y)
QUARTER = ((torch.arange(N_Y) % 4 == 0) | ((torch.arange(N_Y) - N_Y // 2).abs() < 8)).float()


def in_units(kspace: Tensor, csm: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mixed, maps, gain = noise_units(kspace[None], csm[None], mask[None])
    return mixed[0], maps[0], gain[0]


def correlations(kspace: Tensor, mask: Tensor) -> Tensor:
    ends = line_ends(kspace, mask).transpose(0, 1).flatten(1)
    covariance = ends @ ends.mH
    power = covariance.diagonal().real.sqrt()
    return (covariance / torch.outer(power, power)).abs() - torch.eye(len(kspace))


@pytest.mark.parametrize("mask", [EVERY, QUARTER])
def test_without_a_floor_noise_comes_out_white(mask, monkeypatch):
    monkeypatch.setattr("mnet.recon.noise_units.FLOOR", 1e-4)
    kspace, csm = scan(0.3, shared_noise())
    assert correlations(kspace, mask).max() > 0.4
    mixed, _, _ = in_units(kspace, csm, mask)
    # of the end that was not weighed by: the scatter of a covariance of 12 samples * lines
    assert correlations(mixed, mask).max() < 0.1
    power = line_ends(mixed, mask).abs().square().mean((0, 2, 3))
    assert float(power.max() / power.min()) < 1.2


def test_without_noise_coils_stay_as_they_are_up_to_a_factor():
    kspace, csm = scan(1e-4, shared_noise())
    mixed, maps, gain = in_units(kspace, csm, EVERY)
    inside = csm.abs().sum(0) > 0
    # noise of at most 3e-4 of the brightness against a floor of 0.03
    assert float(gain[inside].std() / gain[inside].mean()) < 0.01
    torch.testing.assert_close(maps, csm, atol=0.01, rtol=0)
    torch.testing.assert_close(mixed / gain[inside].mean(), kspace, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("sigma", [1e-4, 0.3])
def test_the_image_of_all_lines_is_the_weighted_least_squares_one_of_the_same_maps(sigma):
    kspace, csm = scan(sigma, shared_noise())
    mixed, maps, gain = in_units(kspace, csm, EVERY)
    image = sense.combine(inverse_fourier(mixed, dim=-1), maps) / gain
    # by hand: (s^H C^-1 s)^-1 s^H C^-1 c with the covariance that the lines show
    ends = line_ends(kspace, EVERY).flatten(2).to(torch.complex128)
    louder = max(ends, key=lambda end: float(end.abs().square().sum()))
    covariance = louder @ louder.mH / louder.shape[1]
    support = (csm != 0).any(0).sum()
    floor = FLOOR**2 * kspace.abs().square().sum() / support
    inverse = torch.linalg.inv(covariance + floor * torch.eye(N_COILS)).to(torch.complex64)
    weighted = torch.einsum("ixy,ij->jxy", csm.conj(), inverse)
    coils = inverse_fourier(kspace, dim=-1)
    expected = (weighted * coils).sum(0) / (weighted * csm).sum(0).real.clamp_min(1e-12)
    inside = csm.abs().sum(0) > 0
    torch.testing.assert_close(image[inside], expected[inside], rtol=1e-3, atol=1e-3)


def test_coils_that_share_noise_give_a_less_noisy_image_than_coils_that_count_alike():
    clean, _ = scan(0.0)
    kspace, csm = scan(0.2, shared_noise())
    inside = csm.abs().sum(0) > 0
    truth = sense.combine(inverse_fourier(clean, dim=-1), csm)

    def error(lines: Tensor, maps: Tensor, gain: Tensor | float) -> float:
        nothing = torch.zeros(1, N_X, N_Y, dtype=torch.complex64)
        solved = data_consistency(
            nothing, torch.tensor(1e-3), QUARTER[None], lines[None], maps[None], n_iterations=30
        )
        return float(((solved[0] / gain - truth)[inside]).norm())

    assert error(*in_units(kspace, csm, QUARTER)) < 0.8 * error(kspace, csm, 1.0)


def test_one_coil_a_dead_one_and_a_scan_of_zeros_stay_finite():
    kspace, csm = scan(0.1)
    mixed, maps, gain = in_units(kspace[:1], torch.ones(1, N_X, N_Y, dtype=csm.dtype), EVERY)
    torch.testing.assert_close(maps.abs(), torch.ones(1, N_X, N_Y))
    torch.testing.assert_close(mixed / gain.mean(), kspace[:1])
    kspace[2] = 0
    for lines in (kspace, 1e-20 * kspace, torch.zeros_like(kspace)):
        for part in in_units(lines, csm, EVERY):
            assert torch.isfinite(torch.view_as_real(part + 0j)).all()


def test_a_readout_that_was_cut_short_is_weighed_by_its_whole_end():
    kspace, csm = scan(0.3, shared_noise())
    readouts = fourier(kspace, dim=-2)
    readouts[:, : N_X // 4] = 0
    cut = inverse_fourier(readouts, dim=-2)
    whole, short = in_units(kspace, csm, EVERY)[1], in_units(cut, csm, EVERY)[1]
    torch.testing.assert_close(short, whole, atol=0.1, rtol=0)


def test_an_image_follows_neither_the_order_nor_the_phases_nor_the_unit_of_coils():
    model = trained_looking(MoDL(4, 2, 2))
    kspace, csm = scan(0.2, shared_noise())
    order = torch.randperm(N_COILS, generator=torch.Generator().manual_seed(1))
    phases = torch.exp(1j * torch.arange(N_COILS))[:, None, None]

    def image(lines: Tensor, maps: Tensor) -> Tensor:
        with torch.no_grad():
            return model(lines[None], maps[None], QUARTER[None])[0]

    expected = image(kspace, csm)
    for lines, maps, unit in (
        (kspace[order], csm[order], 1.0),
        (kspace * phases, csm * phases, 1.0),
        (1e-6 * kspace, csm, 1e-6),
        (1e-14 * kspace, csm, 1e-14),
        (1e14 * kspace, csm, 1e14),
    ):
        torch.testing.assert_close(image(lines, maps) / unit, expected, rtol=1e-3, atol=1e-3)


def test_lines_that_were_not_acquired_weigh_nothing():
    kspace, csm = scan(0.2, shared_noise())
    hidden = torch.where(QUARTER > 0, kspace, 1e3)
    for found, expected in zip(
        in_units(hidden, csm, QUARTER)[1:], in_units(kspace, csm, QUARTER)[1:], strict=True
    ):
        assert torch.equal(found, expected)
