"""Volumes from a formula: heads for a run without any data, and the test objects of scanners.

Scanners are set up and checked on bottles, rods and grids. A network that has seen anatomy alone
takes their even inside and straight edges for something else.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float64]
Bool = NDArray[np.bool_]


def head(seed: int, size: int = 72) -> NDArray[np.float64]:
    """Return a head (size, size, size) of ellipsoids with a bright rim and some texture."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1.2, 1.2, size)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.sqrt((x / 0.95) ** 2 + (y / 0.8) ** 2 + z**2)
    volume = np.where(radius < 1, 0.6, 0.0) + np.where((radius > 0.9) & (radius < 1), 0.4, 0.0)
    for _ in range(12):
        cx, cy, cz = rng.uniform(-0.5, 0.5, 3)
        blob = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < rng.uniform(0.01, 0.06)
        volume += np.where(blob & (radius < 0.9), rng.uniform(-0.3, 0.4), 0.0)
    volume += np.where(radius < 1, rng.normal(0, 0.03, volume.shape), 0.0)
    return 1000 * volume.clip(0)


def test_objects(seed: int, n: int = 48, size: int = 320) -> NDArray[np.float32]:  # noqa: PT028
    """Return slices (n, size, size) through bottles: even ones, and such with rods, bars or a grid.

    Drawn twice as fine, so that edges have no steps; brightness within 0..1.
    """
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, 2 * size)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    slices = []
    for number in range(n):
        body = _body(x, y, rng)
        image = body * float(rng.uniform(0.7, 1.0))
        for _ in range(int(rng.integers(1, 4)) if number % 3 else 0):  # every third one is even
            within = body & (np.hypot(x, y) < 0.75)
            filling = _FILLINGS[int(rng.integers(len(_FILLINGS)))](x, y, rng) & within
            image[filling] = float(rng.choice([0.0, rng.uniform(0.2, 1.0)]))
        slices.append(image.reshape(size, 2, size, 2).mean((1, 3)))
    return np.stack(slices).astype(np.float32)


def _body(x: Plane, y: Plane, rng: np.random.Generator) -> Bool:
    """Draw a disc, an ellipse, or a box with round corners."""
    wide, high = rng.uniform(0.75, 0.95, 2)
    power = float(rng.choice([2.0, 2.0, 6.0]))
    inside: Bool = np.abs(x / wide) ** power + np.abs(y / high) ** power < 1
    return inside


def _rods(x: Plane, y: Plane, rng: np.random.Generator) -> Bool:
    rods = np.zeros(x.shape, dtype=bool)
    for _ in range(int(rng.integers(1, 12))):
        (a, b), radius = rng.uniform(-0.7, 0.7, 2), float(np.exp(rng.uniform(-4.5, -1.5)))
        rods |= (x - a) ** 2 + (y - b) ** 2 < radius**2
    return rods


def _bars(x: Plane, y: Plane, rng: np.random.Generator) -> Bool:
    """Draw parallel bars in a box, as resolution is read from."""
    along, across = (x, y) if rng.random() < 0.5 else (y, x)
    a, b = rng.uniform(-0.6, 0.2, 2)
    box = (along > a) & (along < a + 0.4) & (across > b) & (across < b + 0.4)
    bars: Bool = box & (np.sin(along * float(rng.uniform(40, 200))) > 0)
    return bars


def _grid(x: Plane, y: Plane, rng: np.random.Generator) -> Bool:
    period, thick = float(rng.uniform(0.1, 0.3)), float(rng.uniform(0.05, 0.2))
    grid: Bool = (np.mod(x / period, 1) < thick) | (np.mod(y / period, 1) < thick)
    return grid


_FILLINGS = (_rods, _rods, _bars, _grid)


def write_phantoms(folder: Path, names: Sequence[str]) -> None:
    """Write one head per name where simulation looks for volumes; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        path = folder / f"{name}.npz"
        if not path.exists():
            np.savez_compressed(path, images=head(seed).astype(np.float32))
