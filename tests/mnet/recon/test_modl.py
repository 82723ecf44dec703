import pytest
import torch

from mnet.physics import sense
from mnet.recon.modl import MoDL
from mnet.recon.unet import UNet
from tests.mnet.helpers.small_problems import problem, trained_looking


@pytest.mark.parametrize("scale", [1e-6, 3.7, 1e5])
def test_modl_is_homogeneous_so_no_image_scale_enters(scale):
    model = trained_looking(MoDL(4, 2, 3))
    kspace, csm, mask = problem()
    with torch.no_grad():
        image = model(kspace, csm, mask)
        scaled = model(kspace * scale, csm, mask) / scale
    torch.testing.assert_close(scaled, image, rtol=1e-3, atol=1e-4)


def test_without_regularisation_full_sampling_returns_the_image():
    model = trained_looking(MoDL(4, 2, 3, initial_lam=1e-6))
    kspace, csm, mask = problem()
    full = torch.ones_like(mask)
    with torch.no_grad():
        image = model(kspace, csm, full)
    torch.testing.assert_close(image, sense.adjoint(kspace, csm, full), rtol=1e-4, atol=1e-4)


def test_initial_lambda_is_what_was_asked_for():
    assert MoDL(initial_lam=0.07).lam.item() == pytest.approx(0.07, rel=1e-5)


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


def test_the_gradient_to_the_mask_matches_finite_differences():
    model = trained_looking(MoDL(4, 1, 2, n_cg=60)).double()
    kspace, csm, mask = (v.to(torch.complex128) for v in problem(8, 12, batch=1))
    weights = mask.real.clone().requires_grad_()
    truth = sense.adjoint(kspace, csm, torch.ones_like(mask.real))

    def loss(m: torch.Tensor) -> torch.Tensor:
        return (model(kspace, csm, m) - truth).abs().square().sum()

    loss(weights).backward()
    assert weights.grad is not None
    for line in (1, 4, 7):
        step = torch.zeros_like(weights)
        step[0, line] = 1e-4
        with torch.no_grad():
            slope = (loss(weights + step) - loss(weights - step)) / 2e-4
        assert weights.grad[0, line].item() == pytest.approx(slope.item(), rel=2e-3, abs=1e-5)


def test_an_untrained_u_net_changes_nothing():
    x = torch.randn(2, 2, 10, 11)
    assert torch.equal(UNet(4, 2)(x), torch.zeros_like(x))


def test_the_u_net_has_no_additive_constants():
    net = trained_looking(UNet(4, 3))
    assert not [name for name, _ in net.named_parameters() if "bias" in name]
    assert net(torch.zeros(1, 2, 16, 16)).abs().max() == 0
