"""Whether an object overflows the field of view along ky, seen from its calibration lines.

What is outside of the field of view folds onto what is inside. Two places then share a pixel, each
with sensitivities of its own, and one set of maps cannot explain what the coils receive: the second
eigenvalue of ESPIRiT's matrix comes near 1, as the first is (Uecker et al., Magn Reson Med 71:990
(2014), doi:10.1002/mrm.24751, who take two sets of maps there). That alone would be a poor witness:
few lines blur the matrix, and the second eigenvalue is high in many an ordinary scan. But what
overflows also has signal up to both edges. Both together are asked for.

Both bounds were chosen on simulated scans (docs/training.md, "Fold-over", says what they miss).
"""

import math

import torch
from torch import Tensor

from .coil_maps import N_CALIBRATION_X
from .espirit import calibration_from_lines
from .noise import noise_level

FEWEST_LINES = 6  # fewer do not tell an edge of the field of view from its middle
EDGE_SIGNAL = 1 / 3  # least signal at both edges, in parts of a mean row's
SECOND_SET = 0.45  # least second eigenvalue, mean over the signal of a quarter
_ROWS = 72  # that are looked at, of all: several per calibration line
_EDGE = 36  # the outermost 1 / 36 of the field of view is its edge
_QUARTER = 4  # what overflows one edge comes in at the other, and seldom beyond a quarter


def fov_folded(lines: Tensor, csm: Tensor, second: Tensor) -> bool | None:
    """Say whether the object overflows the field of view along ky.

    Parameters
    ----------
    lines
        (coils, x, L) complex hybrid calibration lines, consecutive and ascending in ky.
    csm, second
        Maps (coils, x, ky) and second eigenvalue (x, ky) that `maps_and_second` makes of them.

    Returns
    -------
    bool | None
        None where it cannot be told: from one coil, from fewer than 6 lines, from noise alone.
    """
    if lines.shape[0] < 2 or lines.shape[-1] < FEWEST_LINES:
        return None
    steps = [max(1, round(n / _ROWS)) for n in csm.shape[1:]]
    power, noise = _power(lines, csm.shape[1:], steps)
    inside = (csm[:, :: steps[0], :: steps[1]] != 0).any(0)
    if not float((power * inside).sum()) > 2 * float(noise * inside.sum()):
        return None  # noise alone reaches every edge, and no maps explain it
    power = (power - noise).clamp_min(0) * inside
    rows, n = power.sum(0), power.shape[1]
    total = float(rows.sum())
    shared = (power * second[:: steps[0], :: steps[1]]).sum(0)
    edge, quarter = max(1, round(n / _EDGE)), n // _QUARTER
    at_edges = min(float(part.mean()) for part in (rows[:edge], rows[-edge:])) * n / total
    tiny = torch.finfo(rows.dtype).tiny
    in_quarters = max(
        float(shared[side].sum() / rows[side].sum().clamp_min(tiny))
        for side in (slice(None, quarter), slice(-quarter, None))
    )
    return at_edges > EDGE_SIGNAL and in_quarters > SECOND_SET


def _power(lines: Tensor, shape: tuple[int, ...], steps: list[int]) -> tuple[Tensor, Tensor]:
    """Return the power (x, ky) that coils receive from every few pixels, and how much is noise."""
    block = calibration_from_lines(lines, N_CALIBRATION_X)
    to_x, to_y = (
        _transform(n, pixels, step).to(block)
        for n, pixels, step in zip(block.shape[1:], shape, steps, strict=True)
    )
    noise = noise_level(lines, torch.ones(lines.shape[-1], device=lines.device))
    images: Tensor = to_x @ block @ to_y.mT
    return images.abs().square().sum(0), len(lines) * noise.square()


def _transform(n: int, pixels: int, step: int) -> Tensor:
    """Return the matrix (places, n) from n samples of k-space to every few of `pixels` places.

    Noise keeps its variance; where k = 0 lies does not matter to a power.
    """
    places = (torch.arange(pixels, dtype=torch.float64)[::step] - pixels // 2) / pixels
    k = torch.arange(n, dtype=torch.float64)
    return torch.exp(2j * math.pi * places[:, None] * k) / math.sqrt(n)
