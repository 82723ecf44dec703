"""What a guard looks at in a slice: numbers near one, from what a sampler sees and nothing else.

- `rows`, `lines`: acquirable ones and calibration lines, as powers of two. They are the plan's, and
  stand here because the others follow them: few lines blur.
- `coils`, `noise`, `support`, `fall-off`: of `mnet.sampler.prescan`, the first as a power of two,
  the second as one of ten.
- `alike j/R`, `meet j/R`, `floor q`: of `mnet.sampler.features.coil_features`.
- `decay`: energy of the strongest line over that of the median one. Noise has none.
- `echo`: energy at the emptier end of the readout over that at the other. Not below -6.
- `edges`: brightness at the darker edge of the field of view along ky, over that of the brightest
  row. What overflows is bright at both.
- `curvature`: median second difference of the log brightness along x, inside the object: how little
  even its inside is.
- `quarter`, `half`: energy of the positions along x which that share of them does not exceed: how
  the object fills the readout.

Ratios are logarithms to the base of ten. All are the same for a slice times any factor.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..masks.line_plan import LinePlan
from ..physics.fourier import fourier, inverse_fourier
from .features import SHIFTS, power_of
from .prescan import EDGE, N_GRID, prescan_numbers
from .prescan import NAMES as PRESCAN

Float = NDArray[np.float64]
ALIASES = ((1, 2), (1, 3), (1, 4), (1, 6))  # the others of SHIFTS are multiples of these
NAMES = (
    *("rows", "lines", "coils", "noise", "support", "fall-off"),
    *(f"{what} {j}/{r}" for j, r in ALIASES for what in ("alike", "meet")),
    *("floor 0.02", "floor 0.1", "floor 0.3"),
    *("decay", "echo", "edges", "curvature", "quarter", "half"),
)
_COIL = [1 + 2 * SHIFTS.index(shift) + i for shift in ALIASES for i in (0, 1)] + [-3, -2, -1]
END = 12  # of the readout, the outer 1 / END at each end: a partial echo leaves out more
SIDE = 16  # of the field of view, the outer 1 / SIDE at each side
TINY = 1e-6  # of a ratio: less is none
N_PARTS = 16  # of the readout


def guard_numbers(z: Tensor, plan: LinePlan, coils: Tensor) -> Float:
    """Return NAMES of one slice from features (1, 3, x, L) and coil features (1, 19), on a CPU.

    Not finite where a slice has no energy at all.
    """
    told = dict(zip(PRESCAN, prescan_numbers(z, plan, coils)[0].tolist(), strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        lines = np.square(z[0, 2].numpy())
        along_ky = lines.mean(0)
        image = _image(z[0])
        found = [
            np.log2(told["rows"]),
            np.log2(z.shape[-1]),
            np.log2(told["effective coils"]),
            _log(told["noise"]),
            told["support"],
            told["fall-off"],
            *coils[0, _COIL].tolist(),
            _log(along_ky.max() / np.median(along_ky)),
            _echo(z[0]),
            _edges(image.numpy()),
            _curvature(image.numpy(), z.shape[-1]),
            *_along_x(lines.mean(1)),
        ]
    return np.array(found, dtype=float)


def _log(ratio: float) -> float:
    """Return the logarithm to the base of ten; NaN stays."""
    return float(np.log10(np.maximum(ratio, TINY)))


def _image(z: Tensor) -> Tensor:
    """Return a low-resolution image (N_GRID, y), of lines that end softly and so do not ring."""
    n = z.shape[-1]
    # averaged along x first: large arrays cost page faults, and the phase hardly turns within one
    real, imag = functional.adaptive_avg_pool2d(z[:2], (N_GRID, n))
    window = torch.hann_window(n + 2, periodic=False, dtype=z.dtype)[1:-1]
    grid = torch.zeros(N_GRID, max(N_GRID, n), dtype=torch.complex64)
    first = grid.shape[-1] // 2 - n // 2
    grid[:, first : first + n] = torch.complex(real, imag) * window
    return inverse_fourier(grid, -1).abs()


def _echo(z: Tensor) -> float:
    power = power_of(fourier(torch.complex(z[0], z[1]), -2).numpy()).sum(-1)
    n = max(1, power.size // END)
    ends = power[:n].sum(), power[-n:].sum()
    return _log(min(ends) / max(ends))


def _edges(image: NDArray[np.float32]) -> float:
    rows = np.sqrt(np.square(image).mean(0))
    n = rows.size // SIDE
    return _log(min(rows[:n].mean(), rows[-n:].mean()) / rows.max())


def _curvature(image: NDArray[np.float32], n_lines: int) -> float:
    """Look where an image (x, y) is object, as far from its edge as few lines blur that."""
    outside = image <= EDGE * image.max()
    near = _spread(_spread(outside, 2).T, image.shape[1] // n_lines).T
    inside = ~(outside if near.all() else near)[1:-1]
    log = np.log(np.maximum(image, np.finfo(np.float32).tiny))
    bends = np.abs(log[2:] - 2 * log[1:-1] + log[:-2])[inside]
    return _log(float(np.median(bends))) if bends.size else 0.0


def _spread(marked: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Mark what lies within `reach` of something marked, along the first axis."""
    found = marked.copy()
    for step in range(1, reach + 1):
        found[step:] |= marked[:-step]
        found[:-step] |= marked[step:]
    return found


def _along_x(columns: NDArray[np.float32]) -> list[float]:
    parts = np.add.reduceat(columns, np.arange(N_PARTS) * columns.size // N_PARTS)
    parts = np.sort(parts) / parts.sum()
    return [_log(parts[N_PARTS // 4 - 1]), _log(parts[N_PARTS // 2 - 1])]
