import math
from functools import partial

import pytest
import torch

from mnet.physics import sense
from mnet.physics.fourier import fourier
from mnet.recon import modl
from mnet.recon.conditions import conditions
from mnet.recon.linear import cg_sense
from mnet.recon.modl import CG_SENSE, MoDL
from mnet.recon.noise_units import noise_units
from mnet.recon.phase import surrounding_phase
from mnet.recon.unet import UNet
from mnet.weight_files import load_weights, save_weights
from tests.mnet.helpers.small_problems import problem, trained_looking


def set_lam(model: torch.nn.Module, lam: float) -> None:
    with torch.no_grad():
        model.log_lam.weight.zero_()
        model.log_lam.bias.fill_(math.log(lam))


@pytest.mark.parametrize("scale", [1e-6, 3.7, 1e5])
def test_modl_is_homogeneous_so_no_image_scale_enters(scale):
    model = trained_looking(MoDL(4, 2, 3))
    kspace, csm, mask = problem()
    with torch.no_grad():
        image = model(kspace, csm, mask)
        scaled = model(kspace * scale, csm, mask) / scale
    torch.testing.assert_close(scaled, image, rtol=1e-3, atol=1e-4)


def test_without_regularisation_full_sampling_returns_the_image(monkeypatch):
    monkeypatch.setattr(modl, "LAM_RANGE", (1e-6, 1.0))
    model = trained_looking(MoDL(4, 2, 3))
    set_lam(model, 1e-6)
    kspace, csm, mask = problem()
    full = torch.ones_like(mask)
    with torch.no_grad():
        image = model(kspace, csm, full)
    torch.testing.assert_close(image, sense.adjoint(kspace, csm, full), rtol=1e-4, atol=1e-4)


def test_initial_lambda_is_what_was_asked_for_whatever_the_scan():
    for told in (torch.zeros(1, 3), torch.randn(1, 3)):
        lam = MoDL(n_unrolls=4, initial_lam=0.07).lam(told)
        expected = torch.tensor([[CG_SENSE, *[0.07] * 4]])
        torch.testing.assert_close(lam, expected)


def test_lambda_is_a_product_of_powers_of_what_the_network_is_told():
    model = MoDL(n_unrolls=1)
    with torch.no_grad():
        model.log_lam.weight[1] = torch.tensor([1.0, -0.5, 2.0])
    ratios = torch.tensor([[2.0, 4.0, 3.0]])  # noise twice the typical, and so on
    expected = 0.05 * 2.0 * 4.0**-0.5 * 3.0**2
    assert model.lam(ratios.log())[0, 1].item() == pytest.approx(expected, rel=1e-5)


def test_an_untrained_network_without_a_denoiser_gives_the_cg_sense_image_as_its_first():
    kspace, csm, mask = problem()
    model = MoDL(4, 2, n_unrolls=0, n_cg=40)
    image = model(kspace, csm, mask)
    mixed, maps, gain = noise_units(kspace, csm, mask)
    expected = cg_sense(mixed, maps, mask, lam=CG_SENSE, n_iterations=60) / gain
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


def test_what_a_network_is_told_changes_its_channels_and_nothing_additive():
    net = trained_looking(UNet(4, 2, n_in=4, n_conditions=3))
    x = torch.randn(1, 4, 12, 12)
    one, other = net(x, torch.zeros(1, 3)), net(x, torch.ones(1, 3))
    assert not torch.allclose(one, other, rtol=0.1)
    assert net(torch.zeros_like(x), torch.ones(1, 3)).abs().max() == 0
    torch.testing.assert_close(net(100 * x, torch.ones(1, 3)), 100 * other, rtol=1e-4, atol=1e-3)


def test_the_image_does_not_depend_on_a_global_phase_of_the_conditions():
    kspace, csm, mask = problem()
    turned = conditions(kspace * torch.exp(torch.tensor(1j)), csm, mask)
    torch.testing.assert_close(turned, conditions(kspace, csm, mask))


@pytest.mark.parametrize(("n_x", "n_ky"), [(16, 16), (13, 19), (9, 10), (24, 11)])
def test_any_matrix_size_keeps_its_shape(n_x, n_ky):
    model = trained_looking(MoDL(4, 3, 2))
    kspace, csm, mask = problem(n_x, n_ky)
    with torch.no_grad():
        assert model(kspace, csm, mask).shape == (2, n_x, n_ky)


def test_lines_outside_the_mask_have_no_influence():
    model = trained_looking(MoDL(4, 2, 3))
    kspace, csm, mask = problem()
    hidden = torch.where(mask[:, None, None] > 0, kspace, 1e3)
    with torch.no_grad():
        torch.testing.assert_close(model(hidden, csm, mask), model(kspace, csm, mask))


def test_a_batch_gives_what_its_members_give_alone():
    model = trained_looking(MoDL(4, 2, 3))
    kspace, csm, mask = problem()
    kspace[1] *= 100
    with torch.no_grad():
        both = model(kspace, csm, mask)
        second = model(kspace[1:], csm[1:], mask[1:])
    torch.testing.assert_close(both[1:], second, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("angle", [0.3, 2.0, -3.0])
def test_a_global_phase_of_the_lines_is_one_of_the_image(angle):
    model = trained_looking(MoDL(4, 2, 3))
    kspace, csm, mask = problem()
    turn = complex(math.cos(angle), math.sin(angle))
    with torch.no_grad():
        image, turned = model(kspace, csm, mask), model(kspace * turn, csm, mask)
    # rounding, which weights at random multiply: single pixels near 0 differ by more
    assert float((turned - image * turn).norm() / image.norm()) < 1e-4


@pytest.mark.parametrize(("n_x", "n_ky"), [(12, 18), (13, 17), (12, 17)])
def test_a_symmetric_network_gives_conjugated_k_space_the_conjugate_image(n_x, n_ky):
    """With its plain denoiser it does not: the weights are at random."""
    kspace, csm, mask = problem(n_x, n_ky)
    other = kspace.flip(-2).conj().resolve_conj(), conjugate(csm), mask
    changes = {}
    for symmetric in (True, False):
        model = trained_looking(MoDL(4, 2, 3, symmetric=symmetric)).in_float32()
        for number, context in enumerate((torch.no_grad, torch.inference_mode)):
            with context():
                image, mirrored = model(kspace, csm, mask), model(*other)
            change = (mirrored - conjugate(image)).norm() / image.norm()
            changes[symmetric, number] = float(change)
    assert max(changes[True, 0], changes[True, 1]) < 1e-4
    assert min(changes[False, 0], changes[False, 1]) > 1e-2


def conjugate(image: torch.Tensor) -> torch.Tensor:
    """Turn an image or maps by half a turn about the middle of the pixels, and conjugate."""
    y = torch.arange(image.shape[-1])
    opposite = (2 * (image.shape[-1] // 2) - y) % image.shape[-1]
    return image.flip(-2)[..., opposite].conj().resolve_conj()


def test_the_symmetry_is_part_of_the_weights(tmp_path):
    save_weights(MoDL(4, 2, 1, symmetric=True), tmp_path / "modl", {})
    model, card = load_weights(str(tmp_path / "modl"))
    assert card["architecture"]["config"]["symmetric"]
    assert model.symmetric


def test_a_smooth_phase_of_the_object_matters_little(monkeypatch):
    # a disc, its phase told by the maps or not: the denoiser sees nearly the same image
    model = trained_looking(MoDL(4, 2, 3))
    x, y = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 32), indexing="ij")
    disc = ((x**2 + y**2) < 0.6).to(torch.complex64)[None]
    csm = torch.polar(torch.ones(1, 2, 24, 32), torch.zeros(1, 2, 24, 32)) / 2**0.5
    turn = torch.polar(torch.ones_like(x), 1.2 * x - 2 * y + 1.2 * x * y)
    mask = (torch.arange(32) % 3 == 0).float()[None]
    kspace = fourier(csm * disc * turn, -1)

    def change() -> float:
        with torch.no_grad():
            image, turned = model(kspace, csm, mask), model(kspace, csm * turn, mask)
        return float((turned * turn - image).norm() / image.norm())

    little = change()
    monkeypatch.setattr(modl, "surrounding_phase", torch.ones_like)
    assert little < 0.3 * change()


def test_the_gradient_to_the_mask_matches_finite_differences(monkeypatch):
    model = trained_looking(MoDL(4, 1, 2, n_cg=60)).double()
    set_lam(model, 0.05)
    kspace, csm, mask = (v.to(torch.complex128) for v in problem(8, 12, batch=1))
    weights = mask.real.clone().requires_grad_()
    truth = sense.adjoint(kspace, csm, torch.ones_like(mask.real))
    told = conditions(kspace, csm, mask.real)
    fixed = surrounding_phase(truth)
    monkeypatch.setattr(modl, "surrounding_phase", lambda _: fixed)  # it carries no gradient
    exact = partial(modl.data_consistency, tolerance=1e-12)
    monkeypatch.setattr(modl, "data_consistency", exact)

    def loss(m: torch.Tensor) -> torch.Tensor:
        return (model(kspace, csm, m, told) - truth).abs().square().sum()

    loss(weights).backward()
    assert weights.grad is not None
    for line in (1, 4, 7):
        step = torch.zeros_like(weights)
        step[0, line] = 1e-6  # the network has kinks
        with torch.no_grad():
            slope = (loss(weights + step) - loss(weights - step)) / 2e-6
        assert weights.grad[0, line].item() == pytest.approx(slope.item(), rel=1e-5)


def test_a_network_in_float32_shares_its_weights_and_leaves_the_other_as_it_is():
    model = MoDL(4, 1, 2)
    plain = model.in_float32()
    assert (model.use_bfloat16, plain.use_bfloat16) == (True, False)
    assert plain.denoiser is model.denoiser


def test_an_untrained_u_net_changes_nothing():
    x = torch.randn(2, 2, 10, 11)
    assert torch.equal(UNet(4, 2)(x), torch.zeros_like(x))


def test_the_u_net_has_no_additive_constants():
    net = trained_looking(UNet(4, 3))
    assert not [name for name, _ in net.named_parameters() if "bias" in name]
    assert net(torch.zeros(1, 2, 16, 16)).abs().max() == 0
