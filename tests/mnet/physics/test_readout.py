import pytest
import torch

from mnet.physics.fourier import inverse_fourier
from mnet.physics.fov import crop
from mnet.physics.readout import to_pixels
from tests.mnet.helpers.operator_checks import linearity_gap

SIZES = [(48, 24), (50, 25), (27, 27), (45, 15), (64, 33), (24, 24), (1, 1), (2, 1)]


@pytest.mark.parametrize(("n", "n_x"), SIZES)
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_it_is_the_centred_transform_cropped_about_its_centre(
    n: int, n_x: int, leading: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(n)
    kx = torch.randn(*leading, n, dtype=torch.complex128, generator=generator)
    torch.testing.assert_close(to_pixels(kx, n_x), crop(inverse_fourier(kx, -1), -1, n_x))


def test_it_is_linear_and_keeps_single_precision() -> None:
    assert (
        linearity_gap(lambda v: to_pixels(v, 5), torch.zeros(3, 9, dtype=torch.complex128)) < 1e-12
    )
    assert to_pixels(torch.ones(2, 8, dtype=torch.complex64), 4).dtype == torch.complex64
