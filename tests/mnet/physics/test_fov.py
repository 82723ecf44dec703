import numpy as np
import pytest
import torch

from mnet.physics.fov import crop, interpolate, to_recon_space


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n", "size"), [(8, 8), (8, 5), (9, 4), (9, 9), (7, 1)])
def test_the_centre_pixel_stays_the_centre(n, size):
    x = torch.arange(n).expand(2, 3, n)
    kept = crop(x, -1, size)
    assert kept.shape == (2, 3, size)
    assert kept[..., size // 2].unique().tolist() == [n // 2]


@pytest.mark.parametrize(
    ("n", "size"), [(8, 8), (8, 12), (9, 12), (8, 13), (9, 15), (12, 8), (13, 8)]
)
@pytest.mark.parametrize("dim", [-1, -2])
def test_interpolation_evaluates_the_fourier_series_on_the_other_grid(n, size, dim):
    """The series of numpy's own sums, about the centre pixel; of all frequencies that both have."""
    x = images(n, n)
    k = np.arange(n) - n // 2
    both = k[(k >= -(size // 2)) & (k < size - size // 2)]
    grid, fine = np.arange(n) - n // 2, np.arange(size) - size // 2
    forward = np.exp(-2j * np.pi * np.outer(both, grid) / n) / n
    backward = np.exp(2j * np.pi * np.outer(fine, both) / size)
    expected = np.moveaxis(np.tensordot(backward @ forward, x.numpy(), (1, dim)), 0, dim)
    np.testing.assert_allclose(interpolate(x, dim, size).numpy(), expected, atol=1e-12)


def test_every_image_of_a_batch_is_cropped_and_then_interpolated():
    x = images(3, 12, 10)
    found = to_recon_space(x, (8, 6), (10, 9))
    for one, image in zip(found, x, strict=True):
        kept = image[2:10, 2:8]
        torch.testing.assert_close(one, interpolate(interpolate(kept, -2, 10), -1, 9))
    assert torch.equal(to_recon_space(x, None, None), x)
    assert torch.equal(to_recon_space(x, (12, 10), (12, 10)), x)
