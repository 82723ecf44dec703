"""Receive coils around an object: arrays of loops, and volume coils, by the law of Biot and Savart.

The object lies within [-1, 1]^2 of the plane z = 0. Fields are computed on a coarse grid and
interpolated, as they are smooth. Noise that is correlated between coils has been whitened, and of
many coils a few virtual ones are kept, as a pipeline does.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnet.physics.coils import compress
from mnet.physics.prewhiten import apply, whitening_matrix

GRID = 24
MOST = 12  # virtual coils of larger arrays: maps of 32 coils take seconds
COMPRESSED = 16  # coils above which an array is compressed
SHARED = (0.1, 0.7)  # of the noise: real arrays' is correlated by 0.17 in the mean
Complex = NDArray[np.complex128]


def draw_array(
    n_coils: int, magnitude: Tensor, rng: np.random.Generator, middle: tuple[float, float] = (0, 0)
) -> tuple[Tensor, str]:
    """Draw whitened receive fields (coils, x, y) complex64 of an array, and its layout.

    `magnitude` (x, y) is the object, whose signal chooses the virtual coils of a large array;
    `middle` is what the coils surround, in halves of the field of view.
    """
    layout = _layout(n_coils, rng)
    fields = _LAYOUTS[layout](n_coils, rng, np.array([*middle, 0.0]))
    gains = np.exp(rng.normal(0, 0.2, n_coils) + 1j * rng.uniform(0, 2 * np.pi, n_coils))
    coarse = torch.from_numpy((fields * gains[:, None, None]).astype(np.complex64))
    thumbnail = functional.adaptive_avg_pool2d(magnitude[None], GRID)[0]
    coarse = whitened(coarse, thumbnail, rng)
    if n_coils > COMPRESSED:
        coarse = virtual(coarse, thumbnail)
    maps = on_matrix(coarse, (magnitude.shape[0], magnitude.shape[1]))
    return maps / maps.abs().square().sum(0).mean().sqrt(), layout


def virtual(coarse: Tensor, magnitude: Tensor) -> Tensor:
    """Keep the MOST virtual coils that hold most of the signal of fields (coils, x, y)."""
    return apply(compress(coarse * magnitude, MOST), coarse)


def _layout(n_coils: int, rng: np.random.Generator) -> str:
    """Choose loops all around, loops on one side, or (of one or two coils) a volume coil."""
    shares = [0.15, 0.25, 0.6] if n_coils <= 2 else [0.85, 0.15, 0.0]
    return str(rng.choice(["around", "surface", "volume"], p=shares))


def around(n_coils: int, rng: np.random.Generator, middle: NDArray[np.float64]) -> Complex:
    """Place loops on one to three rings, facing inwards, each a little out of its place."""
    n_rings = 1 if n_coils <= 8 else int(rng.integers(1, 4 if n_coils > COMPRESSED else 3))
    aspect, reach, turn = rng.uniform(0.8, 1.25), rng.uniform(1.1, 1.6), rng.uniform(0, 2 * np.pi)
    per_ring = -(-n_coils // n_rings)
    fields = []
    for coil in range(n_coils):
        angle = turn + 2 * np.pi * (coil // n_rings + 0.5 * (coil % n_rings)) / per_ring
        angle += rng.normal(0, 0.08)
        height = (coil % n_rings - (n_rings - 1) / 2) * 0.8 + rng.normal(0, 0.1)
        radius = float(np.clip(np.pi * reach / per_ring * rng.uniform(0.6, 1.1), 0.25, 1.0))
        place = np.array([reach * np.cos(angle), aspect * reach * np.sin(angle), height])
        fields.append(loop_field(place, radius, GRID, middle))
    return np.stack(fields)


def surface(n_coils: int, rng: np.random.Generator, middle: NDArray[np.float64]) -> Complex:
    """Place loops on an arc at one side: what lies far from them is dark."""
    arc = rng.uniform(0.4, 1.1) * np.pi * (n_coils > 1)
    turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(1.15, 1.6)
    fields = []
    for coil in range(n_coils):
        angle = turn + arc * (coil / max(n_coils - 1, 1) - 0.5) + rng.normal(0, 0.05)
        radius = float(np.clip(arc * reach / n_coils * rng.uniform(0.6, 1.0), 0.4, 1.0))
        place = np.array([reach * np.cos(angle), reach * np.sin(angle), rng.normal(0, 0.2)])
        fields.append(loop_field(place, radius, GRID, middle))
    return np.stack(fields)


def volume(n_coils: int, rng: np.random.Generator, middle: NDArray[np.float64]) -> Complex:
    """Return modes of a birdcage: the first is almost uniform, the second a weaker one."""
    n_legs = 12
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(n_legs) / n_legs
    reach = rng.uniform(1.3, 1.8)
    legs = np.stack(
        [
            loop_field(np.array([reach * np.cos(a), reach * np.sin(a), 0.0]), 0.6, GRID, middle)
            for a in angles
        ]
    )
    modes = np.exp(1j * np.outer(np.arange(1, n_coils + 1), angles - angles[0]))
    return np.einsum("ml,lxy->mxy", modes, legs)


_LAYOUTS = {"around": around, "surface": surface, "volume": volume}


def loop_field(
    place: NDArray[np.float64],
    radius: float,
    grid: int,
    middle: NDArray[np.float64] | None = None,
    n_segments: int = 24,
) -> Complex:
    """Return Bx - i By (grid, grid) over [-1, 1]^2 of a loop at `place` that faces the origin.

    All is moved by `middle` (x, y, z) where given. The law of Biot and Savart, unit segments.
    """
    normal = -place / np.linalg.norm(place)
    u = np.cross(normal, [0.0, 0.0, 1.0])
    u /= np.linalg.norm(u)
    v = np.cross(normal, u)
    t = 2 * np.pi * (np.arange(n_segments) + 0.5) / n_segments
    wire = place + radius * (np.cos(t)[:, None] * u + np.sin(t)[:, None] * v)
    wire = wire if middle is None else wire + middle
    current = -np.sin(t)[:, None] * u + np.cos(t)[:, None] * v
    axis = np.linspace(-1, 1, grid)
    x, y, z = axis[:, None, None] - wire[:, 0], axis[:, None] - wire[:, 1], -wire[:, 2]
    cubed = np.maximum(np.sqrt(x**2 + y**2 + z**2), 0.2) ** 3  # (grid, grid, segments)
    b_x = (current[:, 1] * z - current[:, 2] * y) / cubed
    b_y = (current[:, 2] * x - current[:, 0] * z) / cubed
    field: Complex = b_x.sum(-1) - 1j * b_y.sum(-1)
    return field


def on_matrix(coarse: Tensor, shape: tuple[int, int]) -> Tensor:
    """Interpolate smooth complex fields (coils, x, y) to a matrix."""
    parts = functional.interpolate(
        torch.view_as_real(coarse).permute(0, 3, 1, 2), shape, mode="bicubic", align_corners=True
    )
    return torch.view_as_complex(parts.permute(0, 2, 3, 1).contiguous())


def whitened(coarse: Tensor, magnitude: Tensor, rng: np.random.Generator) -> Tensor:
    """Mix fields (coils, x, y) as whitening does where most of the noise comes from the object."""
    seen = coarse * (magnitude > 0.05 * magnitude.max())
    shared = rng.uniform(*SHARED)
    covariance = noise_covariance(seen, shared, rng.uniform(0.8, 1.25, len(coarse)))
    return apply(whitening_matrix(covariance).to(coarse.dtype), coarse)


def noise_covariance(seen: Tensor, shared: float, own: NDArray[np.float64]) -> Tensor:
    """Return the covariance (coils, coils) complex128 of the noise of coils that see (coils, x, y).

    Coils that see the same tissue share its noise (Roemer et al. 1990, doi:10.1002/
    mrm.1910160203): a part `shared` of the correlation is that of what they see, the rest, of
    preamplifiers and cables, is each coil's `own` (coils,).
    """
    flat = seen.flatten(1)
    gram = (flat @ flat.mH).numpy().astype(np.complex128)
    strength = np.sqrt(gram.diagonal().real).clip(1e-12)
    covariance = shared * gram / np.outer(strength, strength)
    covariance += (1 - shared) * np.diag(own)
    return torch.from_numpy(covariance)
