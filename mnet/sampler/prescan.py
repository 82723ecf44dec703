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

import torch
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
EDGE = 0.3  # of the brightest, where an object ends that few lines blur
N_GRID = 64  # points along y that few lines are interpolated to


def prescan_numbers(z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
    """Return NAMES of slices (batch, 8) from features (batch, 3, x, L) and (batch, 19)."""
    n_rows = float(plan.acquirable.sum())
    told = [n_rows, n_rows / plan.n_lines, float(plan.calibration.sum()) / plan.n_lines]
    channels, effective = coils[:, 0], coils[:, 1 + 2 * len(SHIFTS)]
    inside = _inside(z)
    return torch.stack(
        [
            *(torch.full_like(channels, value) for value in told),
            channels,
            effective,
            _noise(z, channels, inside.float().mean((-2, -1)) * plan.acquirable.size),
            inside.any(-2).float().mean(-1),
            _fall_off(z, plan),
        ],
        dim=1,
    )


def _inside(z: Tensor) -> Tensor:
    """Mark where the low-resolution images (batch, x, N_GRID) hold an object."""
    lines = torch.complex(z[:, 0], z[:, 1])
    grid = lines.new_zeros(*lines.shape[:-1], max(N_GRID, lines.shape[-1]))
    first = grid.shape[-1] // 2 - lines.shape[-1] // 2
    grid[..., first : first + lines.shape[-1]] = lines
    image = inverse_fourier(grid, -1).abs()
    return image > EDGE * image.amax((-2, -1), keepdim=True)


def _noise(z: Tensor, channels: Tensor, n_rows: Tensor) -> Tensor:
    """Return noise over brightness, of objects that cover `n_rows` (batch,) rows of pixels."""
    # the mean of n whitened channels has 1 / n of the noise power of each
    means = torch.complex(z[:, 0], z[:, 1])
    everywhere = means.real.new_ones(means.shape[-1])
    level = torch.stack([noise_level(mean[None], everywhere) for mean in means]) * channels.sqrt()
    energy = channels * z[:, 2].square().sum((-2, -1))
    brightness = (energy / (n_rows * z.shape[-2]).clamp_min(1)).sqrt()
    return level / brightness.clamp_min(torch.finfo(z.dtype).tiny)


def _fall_off(z: Tensor, plan: LinePlan) -> Tensor:
    """Return minus the slope of log energy over log distance from k = 0, (batch,)."""
    rows = torch.from_numpy(plan.calibration).nonzero().flatten().to(z.device)
    away = (1 + (rows - plan.center).abs()).to(z).log10()
    away = away - away.mean()
    energy = z[:, 2].square().mean(1).clamp_min(torch.finfo(z.dtype).tiny).log10()
    return -(energy * away).sum(-1) / away.square().sum().clamp_min(math.ulp(1.0))
