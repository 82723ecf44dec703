"""What a sampler sees of a slice: its calibration lines, and nothing else.

Numbers are few and a mask is due within milliseconds, so NumPy computes them: an operator of torch
costs ten times the overhead, and gives Python's lock away, for which other scans then compete.

After Gautam, Li and Ravishankar, arXiv:2509.16846: the complex mean over coils. Beside it stand the
root of the mean square, which the phases of the coils cannot cancel, and a few numbers on how well
the coils tell aliases apart.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..masks.line_plan import LinePlan
from ..physics.fourier import inverse_fourier

Float = NDArray[np.floating[Any]]
Complex = NDArray[np.complexfloating[Any, Any]]
N_FEATURES = 3
GRID_X = 64
N_SCALARS = 3
SHIFTS = tuple((j, r) for r in (2, 3, 4, 6) for j in range(1, r // 2 + 1))
N_COIL_FEATURES = 5 + 2 * len(SHIFTS)
N_STATISTICS = 58
N_COIL_POINTS = 32  # along the readout


def line_features(line: Tensor) -> Tensor:
    """Average one hybrid line (..., coils, x) over its coils: features (..., 3, x).

    Real and imaginary part of the complex mean, and the root of the mean square, which the phases
    of the coils cannot cancel. A line at a time, so that nothing is left to do after the last one.
    """
    mean = line.mean(-2)
    energy = line.abs().square().mean(-2).sqrt()
    return torch.stack([mean.real, mean.imag, energy], dim=-2)


def seen_of(line: Complex) -> Float:
    """Return `line_features` of one hybrid line (coils, x) as an array: (3, x)."""
    mean = line.mean(0)
    return np.stack([mean.real, mean.imag, np.sqrt(power_of(line).mean(0))])


def features(lines: Tensor) -> Tensor:
    """Average hybrid calibration lines (..., coils, x, L) over coils: (..., 3, x, L)."""
    return line_features(lines.movedim(-1, 0)).movedim(0, -1)


def power_of(values: Complex) -> Float:
    """Return squared magnitudes, without the roots that `abs` draws."""
    return np.square(values.real) + np.square(values.imag)


@lru_cache(maxsize=8)
def coil_points(n: int, n_x: int = N_COIL_POINTS) -> Tensor:
    """Return which of `n` points along the readout tell how coils encode."""
    return torch.linspace(0, n - 1, n_x).round().long()


def coil_features(lines: Tensor, n_x: int = N_COIL_POINTS, n_y: int = 48) -> Tensor:
    """Say how coils encode, from hybrid calibration lines (batch, coils, x, L): (batch, 19).

    The number of coils; for aliases j/R of the field of view apart, how alike the coils see them
    and how much signal meets there, weighted by signal; the effective number of coils; and how far
    the weakest samples lie below the mean, which is noise. From the `coil_points` of the readout;
    lines that have only these give the same.
    """
    rows = lines if lines.shape[-2] == n_x else lines[..., coil_points(lines.shape[-2], n_x), :]
    # nothing below is more than a ratio, and fourth powers neither overflow nor vanish near one
    parts = torch.view_as_real(rows.resolve_conj())
    largest = parts.abs().amax((1, 2, 3, 4)).clamp(min=torch.finfo(torch.float).tiny)
    rows = rows / largest[:, None, None, None]
    n_lines = min(rows.shape[-1], n_y)
    first = (rows.shape[-1] - n_lines) // 2
    grid = rows.new_zeros(*rows.shape[:-1], n_y)
    start = n_y // 2 - n_lines // 2
    grid[..., start : start + n_lines] = rows[..., first : first + n_lines]
    images, measured = (_array(each) for each in (inverse_fourier(grid, -1), rows))
    found = [np.full((images.shape[0], 1), lines.shape[1], images.real.dtype)]
    found += [_aliases(images), _effective(images), _floor(measured)]
    return torch.from_numpy(np.concatenate(found, axis=1)).to(lines.device)


def _aliases(images: Complex) -> Float:
    """Return how alike coils see what is j/R apart, and how much meets there: (batch, 14)."""
    n_y = images.shape[-1]
    shifts = sorted({round(n_y * j / r) for j, r in SHIFTS})  # 2/4 and 3/6 of the field are 1/2
    apart = (np.arange(n_y) - np.array(shifts)[:, None]) % n_y  # (shifts, y)
    energy = power_of(images).sum(1)
    mirrored = images.conj()
    met = np.stack([(mirrored * images[..., at]).sum(1) for at in apart], axis=1)
    weight = np.sqrt(energy[:, None] * energy[..., apart].swapaxes(1, 2))  # (batch, shifts, x, y)
    # the cosine between unit vectors, squared, times the weight
    alike = (power_of(met) / np.maximum(weight, 1e-30)).sum((-2, -1))
    total, weight = np.maximum(energy.sum((-2, -1)), 1e-30), weight.sum((-2, -1))
    seen = np.stack([alike / np.maximum(weight, 1e-30), weight / total[:, None]], axis=-1)
    chosen = [shifts.index(round(n_y * j / r)) for j, r in SHIFTS]
    return seen[:, chosen].reshape(images.shape[0], -1)


def _effective(images: Complex) -> Float:
    """Return of how many independent coils the signals are: (batch, 1)."""
    flat = images.reshape(*images.shape[:2], -1)
    share = np.maximum(np.linalg.eigvalsh(flat @ flat.conj().swapaxes(1, 2)), 0)
    share = share / np.maximum(share.sum(-1, keepdims=True), 1e-30)
    effective: Float = 1 / np.maximum(np.square(share).sum(-1, keepdims=True), 1e-30)
    return effective


def _floor(rows: Complex) -> Float:
    """Return how far the weakest samples lie below the mean: (batch, 3) powers of ten."""
    power = power_of(rows).mean(1).reshape(rows.shape[0], -1)
    power = power / np.maximum(power.mean(1, keepdims=True), 1e-30)
    return np.log10(np.maximum(_quantiles(power, (0.02, 0.1, 0.3)), 1e-8))


def normalise(z: Tensor) -> Tensor:
    """Bring features (batch, 3, x, L) to a common scale, from these lines alone, and to GRID_X.

    Amplitudes span four decades, so the mean is compressed by its square root and the energy by a
    logarithm; the air at the ends of the readout then shows the noise.
    """
    z = functional.adaptive_avg_pool2d(z, (GRID_X, z.shape[-1]))
    scale = z[:, 2:].square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-20)
    z = z / scale
    amplitude = z[:, :2].square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
    return torch.cat([z[:, :2] / amplitude.sqrt(), torch.log10(z[:, 2:].clamp_min(1e-4))], dim=1)


def statistics(z: Tensor) -> Tensor:
    """Sum up features (batch, 3, x, L) in N_STATISTICS logarithms, from these lines alone.

    How energy falls off along ky and differs between its two sides; how it is spread along the
    readout, and in quantiles, the lowest of which are noise; how far the object fills the field of
    view along y.
    """
    image = np.abs(_array(inverse_fourier(torch.complex(z[:, 0], z[:, 1]), -1)))
    energy = _array(z[:, 2])
    scale = np.sqrt(np.square(energy).mean((-2, -1), keepdims=True))
    energy = energy / np.maximum(scale, 1e-20)
    power = np.square(energy)
    along_ky = pooled(power.mean(1), 12)
    along_x = np.sort(pooled(power.mean(2), 16), axis=1)
    spread = _quantiles(energy.reshape(energy.shape[0], -1), (0.01, 0.05, 0.2, 0.5, 0.8, 0.95))
    along_y = pooled(image.mean(1), 12)
    along_y = along_y / np.maximum(along_y.max(1, keepdims=True), 1e-20)
    parts = [along_ky, along_x, spread, np.sort(along_y, axis=1)]
    logarithms = np.log10(np.maximum(np.concatenate(parts, axis=1), 1e-6))
    along_ky, rest = logarithms[:, :12], logarithms[:, 12:]
    found = np.concatenate([along_ky, along_ky[:, ::-1] - along_ky, rest], axis=1)
    return torch.from_numpy(found).to(z)


def pooled(values: Float, n: int) -> Float:
    """Average rows (batch, L) in `n` parts, as torch's adaptive pooling does: (batch, n)."""
    average: Float = values @ _pooling(values.shape[1], n).astype(values.dtype)
    return average


@lru_cache(maxsize=32)
def _pooling(size: int, n: int) -> Float:
    """Return the weights (size, n) of every value in every part; parts overlap by one at most."""
    i, at = np.arange(n), np.arange(size)[:, None]
    first, behind = i * size // n, -(-(i + 1) * size // n)
    weights: Float = ((at >= first) & (at < behind)) / (behind - first)
    return weights


def _quantiles(values: Float, levels: tuple[float, ...]) -> Float:
    """Return `np.quantile` of every row (batch, n): (batch, levels).

    It only partitions the values instead of sorting them.
    """
    at = np.array(levels, np.float32).astype(float) * (values.shape[1] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, values.shape[1] - 1)
    ranked = np.partition(values, np.unique([low, high]), axis=1)
    share = (at - low).astype(values.dtype)
    between: Float = ranked[:, low] + share * (ranked[:, high] - ranked[:, low])
    return between


def _array(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array


def plan_scalars(plan: LinePlan) -> list[float]:
    """Describe a plan in three numbers near one."""
    n = float(plan.acquirable.sum())
    return [
        math.log2(n / plan.n_lines),
        math.log2(n / 128),
        float(plan.calibration.sum()) / plan.n_lines,
    ]
