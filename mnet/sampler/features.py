"""What a sampler sees of a slice: its calibration lines, and nothing else.

After Gautam, Li and Ravishankar, arXiv:2509.16846: the complex mean over coils. Beside it stand the
root of the mean square, which the phases of the coils cannot cancel, and a few numbers on how well
the coils tell aliases apart.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..masks.line_plan import LinePlan
from ..physics.fourier import inverse_fourier

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


def features(lines: Tensor) -> Tensor:
    """Average hybrid calibration lines (..., coils, x, L) over coils: (..., 3, x, L)."""
    return line_features(lines.movedim(-1, 0)).movedim(0, -1)


def power_of(values: Tensor) -> Tensor:
    """Return squared magnitudes, without the roots that `abs` draws."""
    return values.real.square() + values.imag.square()


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
    n_lines = min(rows.shape[-1], n_y)
    first = (rows.shape[-1] - n_lines) // 2
    grid = rows.new_zeros(*rows.shape[:-1], n_y)
    start = n_y // 2 - n_lines // 2
    grid[..., start : start + n_lines] = rows[..., first : first + n_lines]
    images = inverse_fourier(grid, -1)
    shifts = sorted({round(n_y * j / r) for j, r in SHIFTS})  # 2/4 and 3/6 of the field are 1/2
    energy, mirrored = power_of(images).sum(1), images.conj()
    twice, energies = torch.cat([images, images], -1), torch.cat([energy, energy], -1)
    starts = [n_y - shift for shift in shifts]
    met = torch.stack([(mirrored * twice.narrow(-1, at, n_y)).sum(1) for at in starts], 1)
    weight = torch.stack([energy * energies.narrow(-1, at, n_y) for at in starts], 1).sqrt()
    # the cosine between unit vectors, squared, times the weight
    alike = (power_of(met) / weight.clamp_min(1e-30)).sum((-2, -1))
    total, weight = energy.sum((-2, -1)).clamp_min(1e-30), weight.sum((-2, -1))
    seen = torch.stack([alike / weight.clamp_min(1e-30), weight / total[:, None]], -1)
    count = torch.full_like(total, float(lines.shape[1]))[:, None]
    aliases = seen[:, [shifts.index(round(n_y * j / r)) for j, r in SHIFTS]].flatten(1)
    flat = images.flatten(2)
    share = torch.linalg.eigvalsh(flat @ flat.mH).clamp_min(0)
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-30)
    effective = 1 / share.square().sum(-1, keepdim=True).clamp_min(1e-30)
    power = power_of(rows).mean(1).flatten(1)
    power = power / power.mean(1, keepdim=True).clamp_min(1e-30)
    levels = torch.tensor([0.02, 0.1, 0.3]).to(power)
    floor = torch.log10(quantiles(power, levels).T.clamp_min(1e-8))
    return torch.cat([count, aliases, effective, floor], dim=1)


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
    energy = z[:, 2] / z[:, 2].square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-20)
    power = energy.square()
    along_ky = functional.adaptive_avg_pool1d(power.mean(1, keepdim=True), 12)[:, 0]
    along_x = functional.adaptive_avg_pool1d(power.mean(2)[:, None], 16)[:, 0].sort(dim=1).values
    levels = torch.tensor([0.01, 0.05, 0.2, 0.5, 0.8, 0.95]).to(energy)
    spread = quantiles(energy.flatten(1), levels).T
    image = inverse_fourier(torch.complex(z[:, 0], z[:, 1]), -1).abs()
    along_y = functional.adaptive_avg_pool1d(image.mean(1, keepdim=True), 12)[:, 0]
    along_y = along_y / along_y.amax(1, keepdim=True).clamp_min(1e-20)
    parts = [along_ky, along_x, spread, along_y.sort(dim=1).values]
    logarithms = torch.log10(torch.cat(parts, dim=1).clamp_min(1e-6))
    along_ky, rest = logarithms[:, :12], logarithms[:, 12:]
    return torch.cat([along_ky, along_ky.flip(1) - along_ky, rest], dim=1)


def quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Return `torch.quantile` of every row (batch, n): (levels, batch).

    On a processor it only partitions the values instead of sorting them, in a fifth of the time.
    """
    if values.is_cuda:
        return torch.quantile(values, levels, dim=1)
    at = levels.to(torch.float64).numpy() * (values.shape[1] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, values.shape[1] - 1)
    ranked = torch.from_numpy(np.partition(values.numpy(), np.unique([low, high]), axis=1))
    share = torch.from_numpy(at - low).to(values)[:, None]
    return torch.lerp(ranked.T[low], ranked.T[high], share)


def plan_scalars(plan: LinePlan) -> list[float]:
    """Describe a plan in three numbers near one."""
    n = float(plan.acquirable.sum())
    return [
        math.log2(n / plan.n_lines),
        math.log2(n / 128),
        float(plan.calibration.sum()) / plan.n_lines,
    ]
