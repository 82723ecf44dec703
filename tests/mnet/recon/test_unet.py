import pytest
import torch

from mnet.recon.linear import zero_filled
from mnet.recon.unet import UNet, UNetReconstructor, complex_correction
from tests.mnet.helpers.small_problems import problem, trained_looking


def test_untrained_it_returns_the_zero_filled_image():
    kspace, csm, mask = problem()
    with torch.no_grad():
        image = UNetReconstructor(4, 2)(kspace, csm, mask)
    assert torch.equal(image, zero_filled(kspace, csm, mask))


@pytest.mark.parametrize("scale", [1e-6, 3.7, 1e5])
def test_it_is_homogeneous_so_no_image_scale_enters(scale):
    model = trained_looking(UNetReconstructor(4, 2))
    kspace, csm, mask = problem()
    with torch.no_grad():
        image = model(kspace, csm, mask)
        scaled = model(kspace * scale, csm, mask) / scale
        assert (image - zero_filled(kspace, csm, mask)).abs().max() > 1e-2
    torch.testing.assert_close(scaled, image, rtol=1e-3, atol=1e-4)


def test_the_field_of_view_comes_round_along_ky():
    # a shift by a multiple of the pooling: what crosses the edge is treated as what does not
    network = trained_looking(UNet(4, 1)).double()  # deeper ones see beyond AROUND
    image = torch.randn(
        1, 2, 12, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        moved = network(image.roll(24, -1)).roll(-24, -1)
        torch.testing.assert_close(moved, network(image), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n_x", "n_ky"), [(16, 16), (13, 19), (9, 10), (24, 11)])
def test_any_matrix_size_keeps_its_shape(n_x, n_ky):
    model = trained_looking(UNetReconstructor(4, 3))
    with torch.no_grad():
        assert model(*problem(n_x, n_ky)).shape == (2, n_x, n_ky)


def test_lines_outside_the_mask_have_no_influence():
    model = trained_looking(UNetReconstructor(4, 2))
    kspace, csm, mask = problem()
    hidden = torch.where(mask[:, None, None] > 0, kspace, 1e3)
    with torch.no_grad():
        torch.testing.assert_close(model(hidden, csm, mask), model(kspace, csm, mask))


def test_a_batch_gives_what_its_members_give_alone():
    model = trained_looking(UNetReconstructor(4, 2))
    kspace, csm, mask = problem()
    kspace[0] *= 100
    with torch.no_grad():
        both = model(kspace, csm, mask)
        second = model(kspace[1:], csm[1:], mask[1:])
    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-4)


def test_the_gradient_to_the_mask_matches_finite_differences():
    model = trained_looking(UNetReconstructor(4, 1)).double()
    kspace, csm, mask = (part.to(torch.complex128) for part in problem(6, 8, 1))
    mask = 0.5 + mask.real / 4  # no line at zero

    def loss(mask: torch.Tensor) -> torch.Tensor:
        return (model(kspace, csm, mask) - 1).abs().square().sum()

    assert torch.autograd.gradcheck(loss, mask.requires_grad_(), eps=1e-6, atol=1e-4)
    (slope,) = torch.autograd.grad(loss(mask), mask)
    assert (slope.abs() > 1e-6).all()


def test_the_network_sees_real_and_imaginary_parts_as_two_channels():
    seen = []

    class Swap(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.flip(1)

    image = torch.randn(2, 5, 6, dtype=torch.complex64)
    swapped = complex_correction(Swap(), image)
    assert torch.equal(seen[0], torch.stack([image.real, image.imag], dim=1))
    assert torch.equal(swapped, torch.complex(image.imag, image.real))
