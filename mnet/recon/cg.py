"""Conjugate gradients, and the data-consistency step of MoDL with implicit gradients.

The step solves, for image x, prior z and weight lam,

    (A^H M A + lam) x = A^H M y + lam z

and differentiates the solution, not the iterations: with q = (A^H M A + lam)^-1 g for an incoming
gradient g,

    dz = lam q,   dlam = Re<q, z - x>,   dM_k = Re<(A q)_k, (y - A x)_k>

summed over coils and readout. One further solve, no stored iterates. Aggarwal et al. 2019,
doi:10.1109/TMI.2018.2865356.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..physics import sense
from ..physics.fourier import fourier


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the real part of <a, b> per sample, shape (..., 1, 1) for images (..., x, y)."""
    return (a.conj() * b).real.sum((-2, -1), keepdim=True)


def solve(
    operator: Callable[[Tensor], Tensor],
    rhs: Tensor,
    start: Tensor | None = None,
    *,
    n_iterations: int,
    tolerance: float,
) -> Tensor:
    """Solve operator(x) = rhs for a Hermitian positive definite operator on images (..., x, y).

    Every sample has its own step lengths, so a batch gives what its members give alone. Stops at
    `n_iterations`, or when every residual is below `tolerance` times its right-hand side. Hestenes
    and Stiefel 1952, doi:10.6028/jres.049.044.
    """
    x = torch.zeros_like(rhs) if start is None else start.clone()
    residual = rhs.clone() if start is None else rhs - operator(x)
    direction = residual.clone()
    energy = inner(residual, residual)
    enough = tolerance**2 * inner(rhs, rhs)
    tiny = torch.finfo(energy.dtype).tiny
    for _ in range(n_iterations):
        if bool((energy <= enough).all()):
            break
        image = operator(direction)
        step = energy / inner(direction, image).clamp_min(tiny)
        x = x + step * direction
        residual = residual - step * image
        previous, energy = energy, inner(residual, residual)
        direction = residual + (energy / previous.clamp_min(tiny)) * direction
    return x


class _DataConsistency(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        prior: Tensor,
        lam: Tensor,
        mask: Tensor,
        kspace: Tensor,
        csm: Tensor,
        options: dict[str, Any],
    ) -> Tensor:
        normal = sense.Normal(csm, mask)
        rhs = sense.adjoint(kspace, csm, mask) + lam * prior
        x = solve(lambda image: normal(image) + lam * image, rhs, prior, **options)
        ctx.save_for_backward(prior, lam, mask, kspace, csm, x)
        ctx.options = options
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        prior, lam, mask, kspace, csm, x = ctx.saved_tensors
        normal = sense.Normal(csm, mask)
        q = solve(lambda image: normal(image) + lam * image, gradients[0], None, **ctx.options)
        d_lam = inner(q, prior - x).sum_to_size(lam.shape)
        d_mask = None
        if ctx.needs_input_grad[2]:
            encode = csm * q.unsqueeze(-3)
            misfit = kspace - fourier(csm * x.unsqueeze(-3), dim=-1)
            d_mask = (fourier(encode, dim=-1).conj() * misfit).real.sum((-3, -2))
            d_mask = d_mask.sum_to_size(mask.shape)
        return lam * q, d_lam, d_mask, None, None, None


def data_consistency(
    prior: Tensor,
    lam: Tensor,
    mask: Tensor,
    kspace: Tensor,
    csm: Tensor,
    *,
    n_iterations: int,
    tolerance: float = 1e-5,
) -> Tensor:
    """Return argmin_x |M (A x - y)|^2 + lam |x - prior|^2, differentiable in prior, lam and mask.

    Shapes: prior (..., x, y), lam a scalar or (..., 1, 1), mask (..., ky) real, kspace and csm
    (..., coils, x, ky). For the gradient towards lines that were not acquired, `kspace` must hold
    them. The descent begins at the prior: what the lines say nothing about stays as it is there,
    however few steps there are.
    """
    options = {"n_iterations": n_iterations, "tolerance": tolerance}
    x: Tensor = _DataConsistency.apply(  # type: ignore[no-untyped-call]
        prior, lam, mask, kspace, csm, options
    )
    return x
