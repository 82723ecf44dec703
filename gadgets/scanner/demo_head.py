"""A head to look at: axial slices drawn from a template that pip can fetch.

The tissue maps are those of the MNI ICBM152 non-linear symmetric template (2009a, 1 mm), which the
wheel of `nilearn` carries; it is read as a file, nilearn is not imported. Copyright (C) 1993-2009
Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University;
use, copy, modification and distribution are permitted for any purpose with that notice. Fonov et
al. 2011, doi:10.1016/j.neuroimage.2010.07.033.

What is real and what is made up: the shapes of grey matter, white matter and CSF are those of the
template, bent and tilted a little so that left and right differ. An average of 152 heads is
blurred, so tissue borders are sharpened (probabilities to the third power) to be as crisp as the
0.7 mm pixels. The template has no skull: bone, marrow and scalp are shells drawn around the brain.
The contrast is that of a T2-weighted turbo spin echo; the share of every tissue goes
into the file, too, from which `--physics` computes the contrast of a sequence.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnet.sequence.tissue import CSF, FAT, GREY, MUSCLE, WHITE

from ..errors import ConfigError

Floats = NDArray[np.float64]

_ORIGIN = np.array([98.0, 134.0, 72.0])  # voxel of the template's (0, 0, 0) mm; axes R, A, S
_SIGNAL = {"csf": 1.0, "gm": 0.55, "wm": 0.38}
# Shells around the brain: outer distance in mm, signal.
_SHELLS = ((1.5, 1.0), (4.5, 0.04), (6.5, 0.3), (8.5, 0.04), (12.0, 0.7), (13.0, 0.4))
_MARROW = 2  # which of them is patchy
TISSUES = (CSF, GREY, WHITE, FAT, MUSCLE)
_SHELL_TISSUES = {0: CSF, 2: FAT, 4: FAT, 5: MUSCLE}  # bone lies between


def template() -> NDArray[np.uint8]:
    """Read grey matter, white matter and T1 (3, 197, 233, 189); axes R, A, S in mm."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None or importlib.util.find_spec("nibabel") is None:
        raise ConfigError(
            "the demonstration needs the anatomy that comes with nilearn: "
            "pip install mnet-gadgets[demo]"
        )
    nibabel: Any = importlib.import_module("nibabel")

    folder = Path(spec.origin).parent / "datasets" / "data"
    volumes = []
    for name in ("gm", "wm", "t1"):
        path = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.is_file():
            raise ConfigError(f"this nilearn has no {path.name} in {folder}: try nilearn 0.14")
        volumes.append(np.asarray(nibabel.load(path).dataobj, dtype=np.uint8))
    return np.stack(volumes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bend:
    """A smooth displacement: head position and an individual shape."""

    waves: Floats  # (n, 3) 1/mm
    amplitudes: Floats  # (n, 3) mm
    phases: Floats  # (n,)

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int = 6) -> "Bend":
        """Draw `n` waves of 7 to 14 cm and about a millimetre each."""
        directions = rng.normal(size=(n, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return cls(
            waves=directions * 2 * np.pi / rng.uniform(70, 140, (n, 1)),
            amplitudes=rng.normal(scale=1.0, size=(n, 3)),
            phases=rng.uniform(0, 2 * np.pi, n),
        )

    def __call__(self, points: Floats) -> Floats:
        """Turn by 5 degrees in the plane, tilt by 6 and bend points (..., 3) in mm."""
        turn, tilt = np.deg2rad(5.0), np.deg2rad(6.0)
        right, front, up = np.moveaxis(points, -1, 0)
        right, front = (
            right * np.cos(turn) - front * np.sin(turn),
            right * np.sin(turn) + front * np.cos(turn),
        )
        up = up + front * np.tan(tilt)
        turned = np.stack([right, front, up], axis=-1)
        bend: Floats = turned + np.sin(turned @ self.waves.T + self.phases) @ self.amplitudes
        return bend


def grid(shape: tuple[int, int], pixel: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return mm to the front and to the right of pixel centres, (x, 1) and (1, y)."""
    front = (shape[0] // 2 - np.arange(shape[0], dtype=np.float64)) * np.float64(pixel[0])
    right = (np.arange(shape[1], dtype=np.float64) - shape[1] // 2) * np.float64(pixel[1])
    return front[:, None], right[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What lies where in one slice, on a grid of two points per pixel and axis."""

    inside: NDArray[np.bool_]  # (2 x, 2 y) the brain with its CSF
    sharp: Floats  # (csf, gm, wm; 2 x, 2 y) to be divided by their sum
    shade: Floats  # (2 x, 2 y) what T1 knows beyond the three classes, about 1
    layer: NDArray[np.intp]  # (2 x, 2 y) number of the shell, of _SHELLS
    marrow: Floats  # (2 x, 2 y) share of it in its shell


def anatomy(
    tissues: NDArray[np.uint8],
    z: float,
    shape: tuple[int, int],
    pixel: tuple[float, float],
    bend: Bend,
) -> Anatomy:
    """Find what lies where in the slice (x, y) at the height z in mm."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

    fine = (pixel[0] / 2, pixel[1] / 2)
    front, right = np.broadcast_arrays(*grid((2 * shape[0], 2 * shape[1]), fine))
    front = front - 14.0  # the template's origin is not the middle of the head
    points = bend(np.stack([right, front, np.full_like(front, z)], axis=-1))
    voxels = np.moveaxis(points + _ORIGIN, -1, 0)
    gm, wm, t1 = (map_coordinates(v, voxels, output=float, order=1) / 255 for v in tissues)

    inside = t1 > 0.2
    csf = np.where(inside, np.clip(1 - gm - wm, 0, 1), 0)

    # the outside of the skull is rounder than the brain
    outline = gaussian_filter(inside.astype(float), 9.0 / np.array(fine)) > 0.36
    distance = distance_transform_edt(~(outline | inside), sampling=fine)
    angle = np.arctan2(right, front)
    distance = distance * (1 + 0.12 * np.cos(2 * angle + 0.4) + 0.06 * np.cos(5 * angle + z))
    return Anatomy(
        inside=inside,
        sharp=np.stack([csf, gm, wm]) ** 3,
        shade=1 - 0.5 * (t1 - np.mean(t1[inside])),
        layer=np.searchsorted([edge for edge, _ in _SHELLS], distance),
        marrow=np.cos(1.5 * angle + z / 20) ** 2,
    )


def draw(head: Anatomy) -> Floats:
    """Draw one slice (x, y) in the contrast of a T2-weighted scan."""
    weights = np.array(list(_SIGNAL.values()))
    brain = np.tensordot(weights, head.sharp, 1) / np.maximum(head.sharp.sum(0), 1e-6)
    brain *= head.shade
    shells = np.array([signal for _, signal in _SHELLS] + [0.0])[head.layer]
    shells = np.where(head.layer == _MARROW, shells * head.marrow, shells)
    return _mean_of_four(np.where(head.inside, brain, shells))


def fractions(head: Anatomy) -> Floats:
    """Return how much of each pixel's protons are of which tissue, (TISSUES, x, y).

    Bone has none that live long enough; the shade of the template goes into the density.
    """
    maps = np.zeros((len(TISSUES), *head.inside.shape))
    maps[:3] = head.inside * head.shade * head.sharp / np.maximum(head.sharp.sum(0), 1e-6)
    for number, tissue in _SHELL_TISSUES.items():
        share = head.marrow if number == _MARROW else 1.0
        maps[TISSUES.index(tissue)] += (head.layer == number) * ~head.inside * share
    return _mean_of_four(maps)


def _mean_of_four(fine: Floats) -> Floats:
    *before, n_x, n_y = fine.shape
    means: Floats = fine.reshape(*before, n_x // 2, 2, n_y // 2, 2).mean((-3, -1))
    return means


def phase(coefficients: Floats, shape: tuple[int, int]) -> Floats:
    """Return the phase in rad that the object has in all coils: a quadratic across the image."""
    u = np.linspace(-1, 1, shape[0])[:, None]
    v = np.linspace(-1, 1, shape[1])[None]
    a, b, c, d, e, f = coefficients
    result: Floats = np.pi * a + 2 * (b * u + c * v + d * u * v + e * u**2 + f * v**2)
    return result
