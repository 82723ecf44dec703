"""What the pre-scan tells of a scan, in numbers that have names: what a gate looks at.

All follow from the plan and from `features` and `coil_features` of the calibration lines.

- `rows`: acquirable ones. `acceleration`: these over the lines of the budget. `calibration`: the
  share of the budget that is calibration.
- `channels`, and `effective coils`, of how many independent ones their signals are.
- `noise`: of a pixel over the brightness of the object, as MoDL is told it, but from the
  calibration lines alone, so that it is an upper bound where the signal reaches their ends.
- `support`: the share of the field of view along ky that holds signal.
- `fall-off`: by how many powers of ten the energy of lines falls while the distance from k = 0
  grows tenfold. Fine detail falls slowly.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..masks.line_plan import LinePlan
from ..physics.fourier import inverse_fourier
from ..physics.noise import noise_level
from .features import SHIFTS

# what lies below a threshold, and what does not, in words
WORDS = {
    "rows": ("few rows", "many rows"),
    "acceleration": ("low acceleration", "high acceleration"),
    "calibration": ("narrow calibration", "wide calibration"),
    "channels": ("few channels", "many channels"),
    "effective coils": ("few coils", "many coils"),
    "noise": ("low noise", "high noise"),
    "support": ("small object", "large object"),
    "fall-off": ("fine detail", "little detail"),
}
NAMES = tuple(WORDS)
Float = NDArray[np.floating[Any]]
TINY = float(np.finfo(np.float32).tiny)
EDGE = 0.3  # of the brightest, where an object ends that few lines blur
N_GRID = 64  # points along y that few lines are interpolated to


def prescan_numbers(z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
    """Return NAMES of slices (batch, 8) from features (batch, 3, x, L) and (batch, 19)."""
    n_rows = float(plan.acquirable.sum())
    told = [n_rows, n_rows / plan.n_lines, float(plan.calibration.sum()) / plan.n_lines]
    channels, effective = (coils[:, i].cpu().numpy() for i in (0, 1 + 2 * len(SHIFTS)))
    inside = _inside(z)
    energy = np.square(z[:, 2].cpu().numpy())
    covered = inside.mean((-2, -1)) * plan.acquirable.size
    found = [
        *(np.full_like(channels, value) for value in told),
        channels,
        effective,
        _noise(z, channels, energy, covered),
        inside.any(-2).mean(-1),
        _fall_off(energy, plan),
    ]
    return torch.from_numpy(np.stack(found, axis=1).astype(channels.dtype)).to(z.device)


def _inside(z: Tensor) -> NDArray[np.bool_]:
    """Mark where the low-resolution images (batch, x, N_GRID) hold an object."""
    lines = torch.complex(z[:, 0], z[:, 1])
    grid = lines.new_zeros(*lines.shape[:-1], max(N_GRID, lines.shape[-1]))
    first = grid.shape[-1] // 2 - lines.shape[-1] // 2
    grid[..., first : first + lines.shape[-1]] = lines
    image = np.abs(inverse_fourier(grid, -1).cpu().numpy())
    there: NDArray[np.bool_] = image > EDGE * image.max((-2, -1), keepdims=True)
    return there


def _noise(z: Tensor, channels: Float, energy: Float, n_rows: Float) -> Float:
    """Return noise over brightness, of objects that cover `n_rows` (batch,) rows of pixels."""
    # the mean of n whitened channels has 1 / n of the noise power of each
    means = torch.complex(z[:, 0], z[:, 1])
    everywhere = means.real.new_ones(means.shape[-1])
    levels = np.array([float(noise_level(mean[None], everywhere)) for mean in means])
    brightness = np.sqrt(channels * energy.sum((-2, -1)) / np.maximum(n_rows * z.shape[-2], 1))
    noise: Float = levels * np.sqrt(channels) / np.maximum(brightness, TINY)
    return noise


def _fall_off(energy: Float, plan: LinePlan) -> Float:
    """Return minus the slope of log energy (batch, x, L) over log distance from k = 0, (batch,)."""
    away = np.log10(1 + np.abs(np.flatnonzero(plan.calibration) - plan.center))
    away = away - away.mean()
    logarithms = np.log10(np.maximum(energy.mean(1), TINY))
    slope: Float = -(logarithms * away).sum(-1) / max(np.square(away).sum(), math.ulp(1.0))
    return slope
