import pytest
import torch

from mnet.physics import sense
from mnet.physics.fourier import inverse_fourier
from tests.mnet.helpers.operator_checks import adjoint_gap, equality_gap, linearity_gap, random_like

SIZES = [(4, 3, 8, 10), (1, 1, 5, 7), (2, 5, 6, 9), (1, 4, 7, 12)]


def problem(
    size: tuple[int, ...], seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, _, n_x, n_ky = size
    csm = random_like(torch.zeros(size, dtype=torch.complex128), seed)
    mask = (torch.rand(batch, n_ky, generator=torch.Generator().manual_seed(seed)) < 0.5).double()
    return csm, mask, torch.zeros(batch, n_x, n_ky, dtype=torch.complex128)


@pytest.mark.parametrize("size", SIZES)
def test_adjoint_is_the_adjoint_of_forward(size):
    csm, mask, image = problem(size)
    gap = adjoint_gap(
        lambda x: sense.forward(x, csm, mask), lambda y: sense.adjoint(y, csm, mask), image, csm
    )
    assert gap < 1e-12


@pytest.mark.parametrize("size", SIZES)
def test_forward_is_linear(size):
    csm, mask, image = problem(size)
    assert linearity_gap(lambda x: sense.forward(x, csm, mask), image) < 1e-12


@pytest.mark.parametrize("size", SIZES)
def test_normal_equals_adjoint_of_forward(size):
    csm, mask, image = problem(size)
    gap = equality_gap(
        sense.Normal(csm, mask),
        lambda x: sense.adjoint(sense.forward(x, csm, mask), csm, mask),
        image,
    )
    assert gap < 1e-12


def test_forward_matches_the_written_out_sum_for_an_odd_matrix():
    csm, mask, image = problem((1, 2, 3, 5))
    image = random_like(image, 7)
    n = torch.arange(5, dtype=torch.float64) - 2
    matrix = torch.exp(-2j * torch.pi * n[:, None] * n / 5) / 5**0.5
    expected = mask[0] * torch.einsum("ky,cxy->cxk", matrix, csm[0] * image[0])
    torch.testing.assert_close(sense.forward(image, csm, mask)[0], expected)


def test_combining_coil_images_with_unit_norm_maps_returns_the_image():
    csm, _, image = problem((2, 4, 6, 9))
    csm = csm / csm.abs().square().sum(1, keepdim=True).sqrt()
    image = random_like(image, 3)
    kspace = sense.forward(image, csm, torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(sense.combine(inverse_fourier(kspace, dim=-1), csm), image)
