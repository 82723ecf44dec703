import numpy as np
import pytest
import sigpy
import torch

from mnet.physics.fourier import fourier, inverse_fourier
from tests.mnet.helpers.operator_checks import adjoint_gap, equality_gap, linearity_gap

SHAPES = [(1, 1), (2, 3), (7, 8), (8, 7), (5, 4, 9), (2, 3, 16, 15)]


@pytest.mark.parametrize("dim", [-2, -1])
@pytest.mark.parametrize("shape", SHAPES)
def test_transform_is_linear_and_its_inverse_is_its_adjoint(
    shape: tuple[int, ...], dim: int
) -> None:
    x = torch.zeros(shape, dtype=torch.complex128)
    assert linearity_gap(lambda v: fourier(v, dim), x) < 1e-12
    assert adjoint_gap(lambda v: fourier(v, dim), lambda v: inverse_fourier(v, dim), x, x) < 1e-12
    assert equality_gap(lambda v: inverse_fourier(fourier(v, dim), dim), torch.clone, x) < 1e-12
    assert equality_gap(lambda v: fourier(inverse_fourier(v, dim), dim), torch.clone, x) < 1e-12


@pytest.mark.parametrize("n", [1, 2, 7, 8, 15])
def test_transform_is_the_formula_of_the_module(n: int) -> None:
    x = torch.randn(n, dtype=torch.complex128, generator=torch.Generator().manual_seed(n))
    index = np.arange(n) - n // 2
    matrix = np.exp(-2j * np.pi * np.outer(index, index) / n) / np.sqrt(n)
    assert np.allclose(fourier(x, 0).numpy(), matrix @ x.numpy(), atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 6), (7, 6), (7, 9)])
def test_transform_is_that_of_sigpy_for_odd_and_even_sizes(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    ours = fourier(fourier(x, -1), -2).numpy()
    assert np.allclose(ours, sigpy.fft(x.numpy(), axes=(-2, -1)), atol=1e-12)
    back = inverse_fourier(inverse_fourier(x, -1), -2).numpy()
    assert np.allclose(back, sigpy.ifft(x.numpy(), axes=(-2, -1)), atol=1e-12)


@pytest.mark.parametrize("n", [8, 9])
def test_constant_image_puts_all_energy_at_index_n_over_2(n: int) -> None:
    kspace = fourier(torch.ones(n, dtype=torch.complex128), 0)
    assert kspace[n // 2].item() == pytest.approx(n**0.5)
    assert kspace.abs().sum().item() == pytest.approx(n**0.5)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_transform_follows_the_dtype_of_its_input(dtype: torch.dtype) -> None:
    x = torch.ones(3, 5, dtype=dtype)
    assert fourier(x, -1).dtype == inverse_fourier(x, -1).dtype == dtype
