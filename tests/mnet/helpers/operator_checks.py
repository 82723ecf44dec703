"""Mathematical checks that every linear operator of the project must pass.

Each returns a relative error, so that a test reads `assert adjoint_gap(...) < 1e-10` (complex128).
Operators are plain functions; `domain` and `codomain` are example tensors that give shape, dtype
and device, and their values play no part.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


def random_like(example: Tensor, seed: int) -> Tensor:
    """Draw standard normal values with the shape and dtype of an example."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(example.shape, dtype=example.dtype, generator=generator).to(example.device)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product <a, b>, conjugate in a."""
    return torch.vdot(a.flatten(), b.flatten())


def expect_shape(got: Tensor, want: Tensor, what: str) -> None:
    """Fail where broadcasting would otherwise hide a wrong shape or dtype."""
    if got.shape != want.shape or got.dtype != want.dtype:
        message = f"{what}: expected {tuple(want.shape)} {want.dtype}"
        raise AssertionError(f"{message}, got {tuple(got.shape)} {got.dtype}")


def adjoint_gap(
    forward: Operator, adjoint: Operator, domain: Tensor, codomain: Tensor, seed: int = 0
) -> float:
    """Relative gap between <A x, y> and <x, A^H y>, after the shapes of both have been checked."""
    x, y = random_like(domain, seed), random_like(codomain, seed + 1)
    a_x, ah_y = forward(x), adjoint(y)
    expect_shape(a_x, codomain, "forward")
    expect_shape(ah_y, domain, "adjoint")
    scale = a_x.norm() * y.norm() + x.norm() * ah_y.norm()
    return float((inner(a_x, y) - inner(x, ah_y)).abs() / scale)


def linearity_gap(operator: Operator, domain: Tensor, seed: int = 0) -> float:
    """Relative gap between A(s x + y) and s A(x) + A(y), with s complex where the domain is."""
    x, y = random_like(domain, seed), random_like(domain, seed + 1)
    s = 0.6 - 1.7j if domain.is_complex() else -1.7
    want = s * operator(x) + operator(y)
    return float((operator(s * x + y) - want).norm() / want.norm())


def equality_gap(first: Operator, second: Operator, domain: Tensor, seed: int = 0) -> float:
    """Relative gap between two operators, such as a normal operator and A^H(A x)."""
    x = random_like(domain, seed)
    got, want = first(x), second(x)
    expect_shape(got, want, "first operator")
    return float((got - want).norm() / want.norm())
