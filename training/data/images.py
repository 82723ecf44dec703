"""Anatomy for the simulation: magnitude volumes by subject, and random views of them.

Volumes are `.npz` files (`images`: magnitude, slices first) or NIfTI. The open volumes that this
project trains on stand in SOURCES with their licences; any other file of the folder is a subject of
its own, named by its stem. Views are re-slicings, rotations and flips at a random field of view.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnet.physics.fourier import fourier, inverse_fourier

FINE = 2.0  # views are rendered finer, and cut in k-space as a scanner does: sharp to its edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file: whose body it is, voxel size in mm (slice, row, column), and what is used of it."""

    part: str  # the name by which a cohort asks for it
    file: str
    subject: str
    voxel: tuple[float, float, float]
    reslice: bool = True  # voxels fine enough in all three directions
    slices: tuple[int, int] | None = None
    licence: str


SOURCES = (
    Source(
        part="head-1",
        file="brain_t1_sag_uih_a",
        subject="head-1",
        voxel=(1.0, 1.0, 1.0),
        licence="BSD-2-Clause",
    ),
    Source(
        part="head-2",
        file="brain_t1_sag_uih_b",
        subject="head-2",
        voxel=(1.0, 1.0, 1.0),
        licence="BSD-2-Clause",
    ),
    Source(
        part="head-3",
        file="brain_t1_ax_studyforrest",
        subject="head-3",
        voxel=(1.34, 0.67, 0.67),
        licence="PDDL-1.0",
    ),
    Source(
        part="head-4",
        file="brain_t2_ax_fnndsc",
        subject="head-4",
        voxel=(2.5, 0.43, 0.43),
        reslice=False,
        licence="Apache-2.0",
    ),
    Source(
        part="head-4",
        file="brain_mprage_fnndsc",
        subject="head-4",
        voxel=(1.0, 1.146, 1.146),
        licence="Apache-2.0",
    ),
    Source(
        part="head-5",
        file="brain_colin27_mricron",
        subject="head-5",
        voxel=(1.0, 1.0, 1.0),
        licence="BSD-3-Clause",
    ),
    # one knee: neighbouring slices are near-duplicates, so its two parts lie apart
    Source(
        part="knee-1a",
        file="knee_mese_t2_gattia",
        subject="knee-1",
        voxel=(3.0, 0.625, 0.625),
        reslice=False,
        slices=(3, 13),
        licence="MIT",
    ),
    Source(
        part="knee-1b",
        file="knee_mese_t2_gattia",
        subject="knee-1",
        voxel=(3.0, 0.625, 0.625),
        reslice=False,
        slices=(15, 22),
        licence="MIT",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """Magnitude (slices, rows, columns) or (slices, echoes, rows, columns), any unit."""

    data: NDArray[np.generic]
    voxel: tuple[float, float, float] = (1.0, 1.0, 1.0)
    reslice: bool = True
    name: str = "generated"
    phase: NDArray[np.floating] | None = None  # like data, in radians, of a complex measurement


def load_parts(folder: Path, parts: Sequence[str]) -> list[Volume]:
    """Load the volumes of some parts: those of SOURCES, or `part`.npz, .nii, .nii.gz in `folder`.

    Raises
    ------
    FileNotFoundError
        If `folder` holds no file of a part.
    """
    volumes = []
    for part in parts:
        known = [source for source in SOURCES if source.part == part]
        volumes += [_load_source(folder, source) for source in known]
        if not known:
            volumes.append(_load_other(folder, part))
    return volumes


def subjects(parts: Sequence[str]) -> set[str]:
    """Return whose bodies the parts show."""
    known = {source.part: source.subject for source in SOURCES}
    return {known.get(part, part) for part in parts}


def _load_source(folder: Path, source: Source) -> Volume:
    with np.load(folder / f"{source.file}.npz", allow_pickle=False) as content:
        data = content["images"]
    first, last = source.slices or (0, data.shape[0])
    return Volume(
        data=data[first:last], voxel=source.voxel, reslice=source.reslice, name=source.part
    )


def _load_other(folder: Path, part: str) -> Volume:
    for suffix in (".npz", ".nii", ".nii.gz"):
        path = folder / f"{part}{suffix}"
        if not path.exists():
            continue
        if suffix == ".npz":
            return _load_npz(path, part)
        else:
            import nibabel  # only who trains on NIfTI needs it

            image = nibabel.as_closest_canonical(nibabel.load(path))
            data = np.moveaxis(np.asarray(image.dataobj, dtype=np.float32), 2, 0)
            across, down, through = (float(v) for v in image.header.get_zooms()[:3])
            voxel = (through, across, down)
        return Volume(data=data, voxel=voxel, reslice=max(voxel) < 2 * min(voxel), name=part)
    raise FileNotFoundError(f"no {part}.npz, .nii or .nii.gz in {folder}, and no known source")


def _load_npz(path: Path, name: str) -> Volume:
    """Load a volume with its voxel size and whether it may be cut across, where it says so."""
    with np.load(path, allow_pickle=False) as content:
        meta = json.loads(str(content["meta"])) if "meta" in content else {}
        sizes = content["voxel_mm"].tolist() if "voxel_mm" in content else [1.0, 1.0, 1.0]
        voxel = (float(sizes[0]), float(sizes[1]), float(sizes[2]))
        thick = max(voxel) >= 2 * min(voxel)
        return Volume(
            data=content["images"],
            voxel=voxel,
            reslice=bool(meta.get("reslice", not thick)),
            name=name,
        )


def random_slice(
    volumes: list[Volume], rng: np.random.Generator
) -> tuple[Tensor, tuple[float, float]]:
    """Draw a slice that shows anatomy: magnitude (rows, columns) in about 0..1, pixels in mm."""
    for _ in range(50):
        volume = volumes[rng.integers(len(volumes))]
        axis = int(rng.integers(3)) if volume.reslice else 0
        n = volume.data.shape[axis]
        index = int(rng.integers(n // 8, n - n // 8)) if volume.reslice else int(rng.integers(n))
        plane = np.take(volume.data, index, axis=axis)
        if plane.ndim == 3:
            plane = plane[rng.integers(plane.shape[0])]  # an echo
        bright = float(np.percentile(volume.data[:: max(1, n // 8)], 99))
        pixels = tuple(size for i, size in enumerate(volume.voxel) if i != axis)
        image = torch.from_numpy(plane.astype(np.float32) / max(bright, 1e-6))
        if float((image > 0.15).float().mean()) > 0.12:
            return image, (pixels[0], pixels[1])
    raise ValueError("found no slice with anatomy in 50 draws")


def without_air(image: Tensor) -> Tensor:
    """Fade out the noise of the air around the object."""
    local = functional.avg_pool2d(image[None, None], 7, stride=1, padding=3)[0, 0]
    return image * ((local - 0.03) / 0.05).clamp(0, 1)


def random_contrast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Pass intensities through a random curve, so that no tissue is always the bright one."""
    if rng.random() < 0.5:
        return image.clamp_min(0) ** float(rng.uniform(0.7, 1.3))
    heights = torch.tensor([0.0, *rng.uniform(0.1, 1.0, 5)], dtype=image.dtype)
    place = image.clamp(0, 0.999) * (heights.numel() - 1)
    below = place.long()
    return torch.lerp(heights[below], heights[below + 1], place - below)


def random_view(
    image: Tensor, pixels: tuple[float, float], shape: tuple[int, int], rng: np.random.Generator
) -> Tensor:
    """Render a slice on a matrix (x, y): random orientation, and a field of view that holds it."""
    if rng.random() < 0.5:
        image, pixels = image.T, (pixels[1], pixels[0])
    image = image.flip([axis for axis in (0, 1) if rng.random() < 0.5])
    inside = image > 0.1
    extent, centre = [], []
    for axis in (0, 1):
        where = torch.nonzero(inside.any(1 - axis)).flatten()
        low, high = float(where[0]), float(where[-1]) + 1
        extent.append((high - low) * pixels[axis])
        centre.append((low + high) / 2)
    fill = rng.uniform(0.65, 0.98, 2)
    spacing = [extent[i] / (fill[i] * shape[i]) for i in (0, 1)]
    # a source has no detail beyond its own pixels, unless the object became tiny
    for i in (0, 1):
        detail = rng.uniform(0.95, 1.3) * pixels[i]
        spacing[i] = max(spacing[i], min(detail, extent[i] / (0.35 * shape[i])))
    # pixels of a scan are nearly square
    spacing[0] = max(spacing[0], spacing[1] / 1.3)
    spacing[1] = max(spacing[1], spacing[0] / 1.3)
    fine = (math.ceil(shape[0] * FINE), math.ceil(shape[1] * FINE))
    step = [spacing[i] * shape[i] / fine[i] / pixels[i] for i in (0, 1)]  # in source pixels
    small = [max(8, round(n / max(1.0, s))) for n, s in zip(image.shape, step, strict=True)]
    source = functional.interpolate(image[None, None], small, mode="bilinear", antialias=True)

    angle = math.radians(rng.uniform(-12, 12))
    across = [
        (torch.arange(fine[i]) - fine[i] // 2) * (spacing[i] * shape[i] / fine[i]) for i in (0, 1)
    ]
    x, y = torch.meshgrid(across[0], across[1], indexing="ij")
    row = (math.cos(angle) * x - math.sin(angle) * y) / pixels[0] + centre[0]
    column = (math.sin(angle) * x + math.cos(angle) * y) / pixels[1] + centre[1]
    grid = torch.stack([2 * column / image.shape[1] - 1, 2 * row / image.shape[0] - 1], dim=-1)
    rendered = functional.grid_sample(source, grid[None].float(), "bicubic", align_corners=False)
    return _cut(rendered[0, 0].clamp_min(0), shape)


def _cut(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Keep the central k-space of `shape`; real images (x, y), at the same brightness."""
    scale = math.sqrt(shape[0] * shape[1] / image.numel())
    kspace = image.to(torch.complex64)
    for dim, n in enumerate(shape):
        kspace = fourier(kspace, dim)
        kspace = kspace.narrow(dim, kspace.shape[dim] // 2 - n // 2, n)
        kspace = inverse_fourier(kspace, dim)
    return kspace.real * scale
