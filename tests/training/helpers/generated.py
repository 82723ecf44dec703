"""Anatomy-like volumes and small scans, without any data on disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from training.data.corpus import Cohort, draw, save, scan_path
from training.data.images import Volume


def volumes(seed: int = 0, size: int = 72) -> list[Volume]:
    """Return a head of ellipsoids with a bright rim and some texture, voxels of 3 mm."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1.2, 1.2, size)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.sqrt((x / 0.95) ** 2 + (y / 0.8) ** 2 + z**2)
    head = np.where(radius < 1, 0.6, 0.0) + np.where((radius > 0.9) & (radius < 1), 0.4, 0.0)
    for _ in range(12):
        cx, cy, cz = rng.uniform(-0.5, 0.5, 3)
        blob = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < rng.uniform(0.01, 0.06)
        head += np.where(blob & (radius < 0.9), rng.uniform(-0.3, 0.4), 0.0)
    head += np.where(radius < 1, rng.normal(0, 0.03, head.shape), 0.0)
    return [Volume(data=1000 * head.clip(0), voxel=(3.0, 3.0, 3.0))]


def cohort(n: int = 4, seed: int = 1, **changes: Any) -> Cohort:
    """Describe small scans."""
    return replace(Cohort(parts=(), n=n, seed=seed, reference=72, largest=100), **changes)


def write_scans(folder: Path, described: Cohort) -> None:
    """Write small scans where training looks for them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(described.n):
        save(draw(volumes(), described, number), scan_path(folder, number))
