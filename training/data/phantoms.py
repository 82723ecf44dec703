"""Anatomy-like volumes from a formula, for a run without any data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


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


def write_phantoms(folder: Path, names: Sequence[str]) -> None:
    """Write one head per name where simulation looks for volumes; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        path = folder / f"{name}.npz"
        if not path.exists():
            np.savez_compressed(path, images=head(seed).astype(np.float32))
