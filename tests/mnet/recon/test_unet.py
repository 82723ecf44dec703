import pytest
import torch

from mnet.recon.linear import zero_filled
from mnet.recon.unet import UNet, UNetReconstructor, _Block, complex_correction
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


def test_a_block_is_two_convolutions_each_bent_at_a_slope_of_a_tenth():
    block = _Block(1, 1)
    with torch.no_grad():
        for weight, factor in zip(block.parameters(), (1.0, 2.0), strict=True):
            weight.zero_()
            weight[0, 0, 1, 1] = factor
        x = torch.tensor([[[[-3.0, 5.0]]]])
        expected = torch.tensor([[[[-3.0 * 0.1 * 2 * 0.1, 5.0 * 2]]]])
        torch.testing.assert_close(block(x.clone()), expected)
        halved = block.modulated(x.clone(), torch.tensor([[0.5]]))
        torch.testing.assert_close(halved, expected / 2)


def test_conditions_set_gains_around_one_for_every_block():
    network = trained_looking(UNet(4, 2, n_conditions=2))
    assert network.gain.bias is None, "no conditions, no change"
    x = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    told = torch.tensor([[0.3, -0.2]])
    with torch.no_grad():
        network.gain.weight.zero_()
        plain = network(x)
        torch.testing.assert_close(network(x, told), plain)
        begin = 0
        for size in network.sizes:  # every block, those that merge too, has gains of its own
            network.gain.weight.zero_()
            network.gain.weight[begin : begin + size] = 1.0
            assert not torch.allclose(network(x, told), plain)
            begin += size
        assert begin == network.gain.out_features
        network.gain.weight.zero_()
        network.gain.weight[: network.sizes[0], 0] = 1.0  # the first block's gains are 1.3
        first = network.down[0]
        first[2].weight /= 1.3
        torch.testing.assert_close(network(x, told), plain)


def test_conditions_reach_the_network_of_complex_images_and_need_one_that_takes_them():
    network = trained_looking(UNet(4, 1, n_conditions=1))
    image = torch.randn(1, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.gain.weight.fill_(0.5)
        told = complex_correction(network, image, conditions=torch.tensor([[1.0]]))
        assert not torch.allclose(told, complex_correction(network, image))
        assert torch.equal(
            UNet(4, 1)(torch.zeros(1, 2, 8, 8), torch.tensor([[1.0]])), torch.zeros(1, 2, 8, 8)
        ), "a network without conditions does not look at them"


def test_rows_that_pooling_lacks_repeat_the_last_one():
    network = trained_looking(UNet(4, 2))
    x = torch.randn(1, 2, 13, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        longer = torch.cat([x, *[x[..., -1:, :]] * 3], dim=-2)
        torch.testing.assert_close(network(x), network(longer)[..., :13, :])


def test_a_reconstructor_says_how_to_build_its_like_and_adds_its_correction():
    model = trained_looking(UNetReconstructor(5, 1))
    assert model.config == {"n_channels": 5, "n_levels": 1}
    like = UNetReconstructor(**model.config)
    like.load_state_dict(model.state_dict())
    image = torch.randn(1, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        corrected = image + complex_correction(model.unet, image)
        torch.testing.assert_close(like.correct(image), corrected)
    assert model.unet.down[0].n_out == 5
