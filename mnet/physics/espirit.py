"""Coil sensitivity maps from a calibration region: ESPIRiT, one map, batched.

Uecker et al., Magn Reson Med 71:990 (2014), doi:10.1002/mrm.24751. Every k x k patch of
calibration k-space, all coils together, lies in a small subspace. In image space the projection
onto it becomes one coils x coils matrix per pixel, and the sensitivities are the vector that this
matrix leaves as it is: its eigenvector to the eigenvalue 1.

Done at every pixel this takes minutes (`tests.mnet.helpers.espirit_plain`). `espirit` gives the
same maps much faster:

1. The matrix is band-limited in position: its values on a grid of 2k - 1 points per axis give it
   anywhere, by two small products. No kernel is ever padded to the image size.
2. Eigenvectors vary as smoothly, so they are computed on a coarse grid and interpolated, each
   between neighbours whose phase has been matched first.
3. Nothing is taken on trust. At every pixel one product with the matrix improves the vector,
   gives its eigenvalue, and bounds its error; where the bound is not met, where two eigenvalues
   are close, the pixel is solved on its own.
"""

import math

import torch
from torch import Tensor, fft, linalg

from .fourier import fourier

_NODES_PER_TAP = 10  # of the coarse grid along an axis, per tap of the kernel
_TOLERANCE = 5e-4  # bound on the angle between a vector and the exact one, in rad
_SQUARINGS = 7  # of a coarse node's matrix: as many steps of the power iteration as 2**7
_SQUARINGS_ALONE = 13  # where a pixel is solved on its own: eigenvalues 0.1 % apart are told apart
_CACHE_BYTES = 2**22  # of pixel matrices at a time, on a processor


def espirit(
    calibration: Tensor,
    shape: tuple[int, int],
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.9,
    soft_crop: bool = False,
) -> Tensor:
    """Estimate coil sensitivity maps, zero where there is no object.

    Parameters
    ----------
    calibration
        (..., coils, n_kx, n_ky) complex k-space of a full rectangle. It should hold the centre,
        for the sake of signal; where in it DC lies makes no difference to the method.
    shape
        (x, y) pixels of the maps, over the field of view of the calibration.
    kernel
        Width of the patches. Along an axis of n samples at most ``(n + 1) // 2`` is used, so that
        there are as many positions as taps; n below 4 is refused.
    threshold
        Singular values of the calibration matrix below this part of the largest are noise.
    crop
        Pixels whose eigenvalue is not above it are outside the object and zero.
    soft_crop
        Fade the maps over ``sqrt(eigenvalue)`` between ``2 * crop - 1`` and 1, as BART does.

    Returns
    -------
    Tensor
        (..., coils, x, y) of unit norm over the coils inside the object (below it where soft
        cropping fades). The first coil is real and not negative, as in sigpy: the phase of the
        object that is common to all coils is not part of the maps.

    Raises
    ------
    ValueError
        Where the calibration is too small, larger than the maps, not finite or not complex.
    """
    return espirit_and_second(
        calibration, shape, kernel=kernel, threshold=threshold, crop=crop, soft_crop=soft_crop
    )[0]


def espirit_and_second(
    calibration: Tensor,
    shape: tuple[int, int],
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.9,
    soft_crop: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the maps of `espirit`, and how far a pixel asks for a second set of them.

    That is (..., x, y) the second eigenvalue where there are two coils, and with more at most a
    little above it: the fourth root of the sum of the fourth powers of all but the first. It is 1
    where two places of the object share a pixel, as where it overflows the field of view.
    """
    size = kernel_size(calibration, shape, kernel)
    *batch, coils, n_kx, n_ky = calibration.shape
    basis = _kernels(calibration.reshape(-1, coils, n_kx, n_ky), size, threshold)
    few = _matrices(basis.reshape(len(basis), -1, coils, *size))
    faintest = max(2 * crop - 1, 0) ** 2 if soft_crop else crop
    maps = calibration.new_empty(len(few), coils, *shape)
    second = maps.real.new_empty(len(few), *shape)
    for one, result, others in zip(few, maps, second, strict=True):
        vectors, eigenvalues, fourth_powers = _solve(one, shape, faintest)
        others.copy_(_others(fourth_powers, eigenvalues))
        weight = _soft_weight(eigenvalues, crop) if soft_crop else eigenvalues > crop
        result.copy_((first_coil_real(vectors) * weight.unsqueeze(-1)).movedim(-1, 0))
    return maps.reshape(*batch, coils, *shape), second.reshape(*batch, *shape)


def calibration_from_lines(lines: Tensor, n_x: int = 24) -> Tensor:
    """Cut the calibration region out of hybrid lines: (..., coils, x, L) to (..., coils, n_x, L).

    The readout goes from image space to k-space, of which the central ``n_x`` samples stay (all,
    where there are fewer). The L lines are consecutive and ascending in ky.
    """
    n = lines.shape[-2]
    n_x = min(n_x, n)
    return fourier(lines, dim=-2).narrow(-2, n // 2 - n_x // 2, n_x)


def kernel_size(calibration: Tensor, shape: tuple[int, int], kernel: int) -> tuple[int, int]:
    """Return the kernel's taps along both axes, after a look at the arguments."""
    if not calibration.is_complex() or calibration.ndim < 3:
        raise ValueError(
            "calibration: expected complex (..., coils, n_kx, n_ky), "
            f"got {calibration.dtype} {tuple(calibration.shape)}"
        )
    size = tuple(calibration.shape[-2:])
    if min(size) < 4 or any(n > pixels for n, pixels in zip(size, shape, strict=True)):
        raise ValueError(
            f"calibration region: expected at least 4 x 4 and at most the maps' "
            f"{shape[0]} x {shape[1]}, got {size[0]} x {size[1]}"
        )
    if not torch.isfinite(torch.view_as_real(calibration)).all():
        raise ValueError("calibration: expected finite values, got NaN or infinity")
    return min(kernel, (size[0] + 1) // 2), min(kernel, (size[1] + 1) // 2)


def patches(calibration: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the calibration matrix (batch, positions, coils * taps)."""
    patches = calibration.unfold(-2, size[0], 1).unfold(-2, size[1], 1)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def _kernels(calibration: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Return an orthonormal basis of the patches: (batch, n, coils * taps), some of them zero.

    From the smaller Gram matrix, at half the cost of a singular value decomposition. Its
    eigenvalues are squares, among which single precision cannot find a threshold below 0.01.
    """
    scale = calibration.abs().amax((1, 2, 3), keepdim=True)
    matrix = patches(calibration / torch.where(scale == 0, 1, scale), size)
    if threshold < 0.01:
        matrix = matrix.to(torch.complex128)
    wide = matrix.shape[1] < matrix.shape[2]
    values, vectors = linalg.eigh(matrix @ matrix.mH if wide else matrix.mT @ matrix.conj())
    is_signal = values > threshold**2 * values[:, -1:]
    n = max(1, int(is_signal.sum(1).amax()))
    values, vectors, is_signal = values[:, -n:], vectors[:, :, -n:], is_signal[:, -n:]
    if wide:
        vectors = matrix.mT @ vectors.conj() * values.clamp_min(0).rsqrt().unsqueeze(1)
    kept: Tensor = torch.where(is_signal.unsqueeze(-1), vectors.mT, 0)
    return kept.to(calibration.dtype)


def _matrices(kernels: Tensor) -> Tensor:
    """Return the matrices at 2k - 1 positions over the field of view: (batch, u, v, coils, coils).

    The product of a kernel's transform with another's conjugate holds differences of taps, from
    1 - k to k - 1: these positions determine it.
    """
    taps = kernels.shape[-2:]
    n = [2 * k - 1 for k in taps]
    images = fft.ifft2(kernels, s=n, norm="forward").permute(0, 3, 4, 2, 1)
    matrices: Tensor = images @ images.mH / math.prod(taps)
    return matrices


def _solve(few: Tensor, shape: tuple[int, int], faintest: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors (x, y, coils) of one slice, of any length and phase, and eigenvalues.

    Last comes the sum of the fourth powers of all eigenvalues (x, y).

    Where the greatest eigenvalue is not above `faintest`, the vector may be wrong and the
    eigenvalue (x, y) too low.

    The bounds: with t the sum of the fourth powers of all eigenvalues, none is above t^(1/4), and
    none but the greatest above r = (t - value^4)^(1/4), for the greatest is at least `value`. A
    vector of unit length and residual e is within asin(e / (value - r)) of the eigenvector, and
    its product with the matrix r / value times as far.
    """
    to_x, to_y = (_dirichlet(few.shape[i], _pixels(n), few) for i, n in enumerate(shape))
    fourth_powers = _fourth_powers(few, shape)
    steps = [max(1, n // (_NODES_PER_TAP * (few.shape[i] + 1) // 2)) for i, n in enumerate(shape)]
    nodes = _coarse_vectors(few, shape, steps)
    weights = torch.kron(_cubic(steps[0]), _cubic(steps[1])).to(fourth_powers)
    row_bytes = shape[1] * few[0, 0].numel() * few.element_size()
    at_once = max(1, (_CACHE_BYTES if few.device.type == "cpu" else 2**30) // row_bytes // steps[0])
    vectors = few.new_empty(*shape, few.shape[-1])
    eigenvalues = fourth_powers.new_empty(shape)
    unsure = torch.empty_like(fourth_powers, dtype=torch.bool)
    hard = []
    for cell in range(0, len(nodes) - 3, at_once):
        rows = slice(cell * steps[0], min((cell + at_once) * steps[0], shape[0]))
        gram = _interpolate(few, to_x[rows], to_y)
        start = _between(nodes[cell : cell + at_once + 3], steps, weights)
        start = start[: rows.stop - rows.start, : shape[1]]
        vector, value = _product(gram, start)
        residual = _norm(vector - value.unsqueeze(-1) * start)
        others = _others(fourth_powers[rows], value)
        uncertain = residual * others > _TOLERANCE * value * (value - others)
        unsure[rows] = uncertain & (fourth_powers[rows] > faintest**4)
        hard.append(gram[unsure[rows]])
        vectors[rows], eigenvalues[rows] = vector, value
    alone = torch.cat(hard)
    vectors[unsure], eigenvalues[unsure] = _product(alone, _dominant(alone, _SQUARINGS_ALONE))
    return vectors, eigenvalues, fourth_powers


def _others(fourth_powers: Tensor, first: Tensor) -> Tensor:
    """Bound all eigenvalues but the first, from the sum of the fourth powers of all."""
    return (fourth_powers - first**4).clamp_min(0) ** 0.25


def _product(gram: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Return the product of matrices with unit vectors, and the Rayleigh quotient."""
    image = (gram @ vector.unsqueeze(-1)).squeeze(-1)
    return image, (vector.conj() * image).sum(-1).real


def _pixels(n: int) -> Tensor:
    """Return the places of pixels in parts of the field of view, 0 at n // 2."""
    return (torch.arange(n, dtype=torch.float64) - n // 2) / n


def _dirichlet(n: int, places: Tensor, like: Tensor) -> Tensor:
    """Interpolate a periodic function of band (n - 1) / 2, n odd, exactly: (places, n)."""
    lag = torch.arange(1, (n + 1) // 2, dtype=torch.float64)
    distance = places[:, None] - torch.arange(n, dtype=torch.float64) / n
    kernel = (1 + 2 * torch.cos(2 * math.pi * distance.unsqueeze(-1) * lag).sum(-1)) / n
    return kernel.to(device=like.device, dtype=like.real.dtype)


def _interpolate(few: Tensor, to_x: Tensor, to_y: Tensor) -> Tensor:
    """Evaluate complex samples (u, v, ...) at x times y places, (x, y, ...)."""
    along_x = to_x @ torch.view_as_real(few).flatten(1)
    values = to_y @ along_x.reshape(len(to_x), few.shape[1], -1)
    return torch.view_as_complex(values.reshape(*values.shape[:2], *few.shape[2:], 2))


def _fourth_powers(few: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the sum of the fourth powers of all eigenvalues at every pixel, (x, y).

    It is the squared norm of the squared matrix, of four times the band of the matrix.
    """
    more = [4 * n - 3 for n in few.shape[:2]]
    places = [torch.arange(n, dtype=torch.float64) / n for n in more]
    gram = _interpolate(few, *(_dirichlet(few.shape[i], places[i], few) for i in range(2)))
    powers = _norm((gram @ gram).flatten(2)).square()
    to_x, to_y = (_dirichlet(more[i], _pixels(n), few) for i, n in enumerate(shape))
    return to_x @ powers @ to_y.mT


def _coarse_vectors(few: Tensor, shape: tuple[int, int], steps: list[int]) -> Tensor:
    """Return unit vectors of every few pixels, from one before the first to two after the last."""
    places = [
        (torch.arange(-1, -(-n // step) + 2, dtype=torch.float64) * step - n // 2) / n
        for n, step in zip(shape, steps, strict=True)
    ]
    gram = _interpolate(few, *(_dirichlet(few.shape[i], places[i], few) for i in range(2)))
    return _dominant(gram, _SQUARINGS)


def _dominant(gram: Tensor, squarings: int) -> Tensor:
    """Find unit eigenvectors (..., coils) of the greatest eigenvalues.

    Repeated squaring is the power iteration with its step count doubled each time. It turns a
    positive matrix into the projection onto the wanted vector, whose column of greatest diagonal
    starts from the coil that sees most: a start that is never orthogonal to what is sought.
    """
    tiny = torch.finfo(gram.dtype).tiny
    power = gram
    for _ in range(squarings):
        power = power @ power
        trace = power.diagonal(dim1=-2, dim2=-1).real.sum(-1).clamp_min(tiny)
        power *= trace.reciprocal()[..., None, None]  # lest the next square underflow
    strongest = power.diagonal(dim1=-2, dim2=-1).real.argmax(-1, keepdim=True)
    return _unit(power.take_along_dim(strongest.unsqueeze(-2), dim=-1).squeeze(-1))


def _between(nodes: Tensor, steps: list[int], weights: Tensor) -> Tensor:
    """Interpolate unit vectors (u + 3, v + 3, coils) to (u * steps[0], v * steps[1], coils).

    Cubic in both directions, with `weights` (steps[0] * steps[1], 16) of the nodes around. Phases
    are arbitrary, and first made those of the node before the pixel: only angles matter.
    """
    around = nodes.unfold(0, 4, 1).unfold(1, 4, 1)  # (u, v, coils, 4, 4)
    phase = (around.conj() * around[..., 1:2, 1:2]).sum(2, keepdim=True).sgn()
    aligned = (around * phase).flatten(-2).mT.contiguous()  # (u, v, 16, coils)
    fine = weights @ torch.view_as_real(aligned).flatten(-2)
    u, v, _, coils = aligned.shape
    fine = fine.reshape(u, v, *steps, coils, 2).transpose(1, 2)
    return _unit(torch.view_as_complex(fine.reshape(u * steps[0], v * steps[1], coils, 2)))


def _cubic(step: int) -> Tensor:
    """Return Lagrange's weights of nodes -1, 0, 1, 2 at 0, 1 / step, ... below 1: (step, 4)."""
    x = torch.arange(step, dtype=torch.float64) / step
    return torch.stack(
        [
            -x * (x - 1) * (x - 2) / 6,
            (x + 1) * (x - 1) * (x - 2) / 2,
            -(x + 1) * x * (x - 2) / 2,
            (x + 1) * x * (x - 1) / 6,
        ],
        dim=-1,
    )


def _unit(vectors: Tensor) -> Tensor:
    """Scale vectors of the last axis to unit length; zero stays zero."""
    return (
        vectors * _norm(vectors).clamp_min(torch.finfo(vectors.dtype).tiny).reciprocal()[..., None]
    )


def _norm(vectors: Tensor) -> Tensor:
    """Return the length of vectors of the last axis; torch's own is slow for complex numbers."""
    length: Tensor = linalg.vector_norm(torch.view_as_real(vectors).flatten(-2), dim=-1)
    return length


def first_coil_real(vectors: Tensor) -> Tensor:
    """Scale vectors of the last axis to unit length and a first entry that is not negative."""
    first = vectors[..., :1]
    return _unit(vectors) * torch.where(first == 0, 1, first.sgn()).conj()


def _soft_weight(eigenvalues: Tensor, crop: float) -> Tensor:
    """Rise from 0 to 1 without a corner: the weight of BART's ``ecalib -S``."""
    x = ((eigenvalues.clamp_min(0).sqrt() - crop) / (1 - crop)).clamp(-1, 1)
    return 0.5 + x / (1 + x.square())
