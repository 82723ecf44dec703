"""Small faint objects to insert into real scans: discs and lines, at random places in tissue."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnet.masks.line_plan import Bool

Shape = Literal["disc", "line"]
SHAPES: tuple[Shape, ...] = ("disc", "line")
SIZES = (2, 3, 4, 6)  # pixels: the diameter of a disc, the width of a line
CONTRASTS = (0.05, 0.1, 0.2)  # of the local brightness
N_OBJECTS = 8  # of a kind in one scan, alternately brighter and darker
LINE_LENGTH = 16  # pixels
MARGIN = 3  # pixels about an object that are its own: ringing of its edges, and no other object
_FINE = 8  # points a pixel by which edges are drawn
_WINDOW = 7  # pixels, odd: local brightness is a mean over so many squared
_TISSUE = 0.3  # of the bright tissue's brightness: what is darker is air, bone or fluid
_N_TRIALS = 4000
Floats = NDArray[np.float64]


class NoRoomError(ValueError):
    """There is no tissue with room for objects of a kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Objects of one shape and size."""

    shape: Shape
    size: int


KINDS = tuple(Kind(shape=shape, size=size) for shape, size in product(SHAPES, SIZES))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """One object: how much of every pixel it covers, and the pixels that are its own."""

    cover: Tensor  # (x, y) from 0 to 1
    own: Tensor  # (x, y) bool, covered pixels and MARGIN about them
    sign: float


def local_mean(image: Tensor) -> Tensor:
    """Average an image (x, y), real or complex, over a small window; borders count themselves."""
    parts = torch.view_as_real(image).permute(2, 0, 1) if image.is_complex() else image[None]
    half = _WINDOW // 2
    padded = functional.pad(parts[None], (half, half, half, half), mode="replicate")
    mean = functional.avg_pool2d(padded, _WINDOW, stride=1)[0]
    if not image.is_complex():
        return mean[0]
    return torch.view_as_complex(mean.permute(1, 2, 0).contiguous())


def local_phase(image: Tensor) -> Tensor:
    """Return the local phase of a complex image (x, y) as numbers of magnitude 1."""
    return local_mean(image).sgn()


def tissue(image: Tensor) -> Tensor:
    """Mark the pixels (x, y) of a complex image whose surroundings hold signal."""
    local = local_mean(image.abs())
    bright = torch.quantile(local.flatten(), 0.95)
    return local > _TISSUE * bright


def place(inside: Tensor, kind: Kind, rng: np.random.Generator) -> list[Placed]:
    """Place N_OBJECTS of a kind where they and their margin lie inside (x, y) and apart.

    Raises
    ------
    NoRoomError
        If there is no room for two of them.
    """
    free = inside.numpy().copy()
    centres = _eroded(free, kind)
    found: list[Placed] = []
    for _ in range(_N_TRIALS):
        if len(found) == N_OBJECTS or not centres.size:
            break
        centre = np.unravel_index(int(rng.choice(centres)), free.shape)
        cover, own = _draw(kind, rng.uniform(-0.5, 0.5, 2), rng.uniform(0, np.pi))
        there = _window(centre, cover.shape[0], free.shape)
        if there is None or np.any(own & ~free[there]):
            continue
        free[there] &= ~own
        centres = _eroded(free, kind)
        sign = 1.0 if len(found) % 2 == 0 else -1.0
        found.append(_placed(cover, own, there, free.shape, sign))
    if len(found) < 2:
        raise NoRoomError(
            f"{kind.shape}s of {kind.size} pixels: tissue has room for {len(found)}, expected 2"
        )
    return found


def object_image(image: Tensor, placed: Sequence[Placed], contrast: float) -> Tensor:
    """Return what is added to a complex image (x, y): its local brightness and phase, times each.

    The image is that without objects.
    """
    cover = sum((entry.sign * entry.cover for entry in placed), torch.zeros(image.shape))
    return contrast * cover * local_mean(image.abs()) * local_phase(image)


def _eroded(free: Bool, kind: Kind) -> NDArray[np.intp]:
    """Return the pixels, flat, about which a square is free that every object of a kind covers."""
    half = MARGIN + max(int(0.35 * kind.size - 0.5), 0)  # 0.35: half a square in a disc of size 1
    return np.flatnonzero(~_dilated(~free, half))


def _draw(kind: Kind, at: Floats, angle: float) -> tuple[Floats, Bool]:
    """Return how much of every pixel of a square an object covers, and which are its own.

    The object lies about `at` pixels from the middle of the square.
    """
    half = (max(kind.size, LINE_LENGTH if kind.shape == "line" else 0) + 1) // 2 + MARGIN + 1
    n = 2 * half + 1
    points = (np.arange(n * _FINE) + 0.5) / _FINE - n / 2
    x, y = points[:, None] - at[0], points - at[1]
    if kind.shape == "disc":
        within = x**2 + y**2 < (kind.size / 2) ** 2
    else:
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        within = (abs(along) < LINE_LENGTH / 2) & (abs(across) < kind.size / 2)
    cover: Floats = within.reshape(n, _FINE, n, _FINE).mean((1, 3))
    return cover, _dilated(cover > 0, MARGIN)


def _window(
    centre: Sequence[np.intp], side: int, shape: tuple[int, ...]
) -> tuple[slice, slice] | None:
    """Return a square about a pixel, or None where it leaves the image."""
    first = [int(c) - side // 2 for c in centre]
    if min(first) < 0 or any(f + side > n for f, n in zip(first, shape, strict=True)):
        return None
    return slice(first[0], first[0] + side), slice(first[1], first[1] + side)


def _placed(
    cover: Floats, own: Bool, there: tuple[slice, slice], shape: tuple[int, ...], sign: float
) -> Placed:
    """Put a square into the whole image."""
    covers, marked = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    covers[there] = torch.from_numpy(cover).float()
    marked[there] = torch.from_numpy(own)
    return Placed(cover=covers, own=marked, sign=sign)


def _dilated(mask: Bool, pixels: int) -> Bool:
    """Add all pixels within a square of so many about the marked ones."""
    side = 2 * pixels + 1
    grown = functional.max_pool2d(
        torch.from_numpy(mask)[None, None].float(), side, stride=1, padding=pixels
    )
    marked: Bool = grown[0, 0].numpy() > 0
    return marked
