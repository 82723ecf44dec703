"""Gradient lobes: three axes of one trapezoid, short enough and within the limits.

All axes of a block share one timing. A turned slice is then the same lobe with other amplitudes,
and a lobe whose vector is within the limits is so in every direction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .limits import Limits
from .protocol import Floats

AXES = ("x", "y", "z")
# A file holds six digits: above this, in Hz/m, it would round by ten times as much.
_SIX_DIGITS = 0.999e6
_LOW = 1e-9  # of the largest amplitude: what is left of a zero when it is turned


@dataclass(frozen=True, slots=True, kw_only=True)
class Lobe:
    """A trapezoid in microseconds, as steep on both sides."""

    rise_us: int
    flat_us: int

    @classmethod
    def for_area(cls, area: float, limits: Limits) -> "Lobe":
        """Return the shortest lobe for the length of an area vector in cycles/m."""
        raster = limits.grad_raster_us
        steep, strong = limits.max_slew, min(limits.max_grad, _SIX_DIGITS)
        rise = up(1e6 * min(math.sqrt(area / steep), strong / steep), raster)
        flat = up(1e6 * area / strong - rise, raster)
        return cls(rise_us=rise, flat_us=max(flat, 0))

    @classmethod
    def within(cls, us: int, limits: Limits) -> "Lobe":
        """Return the lobe of the largest area that takes no longer than `us`."""
        raster = limits.grad_raster_us
        strong = min(limits.max_grad, _SIX_DIGITS)
        rise = min(up(1e6 * strong / limits.max_slew, raster), us // 2 // raster * raster)
        return cls(rise_us=rise, flat_us=us // raster * raster - 2 * rise)

    def largest(self, limits: Limits) -> float:
        """Return the largest area in cycles/m that it can have."""
        steep = limits.max_slew * self.rise_us * 1e-6
        return self.area(min(limits.max_grad, _SIX_DIGITS, steep))

    @classmethod
    def for_flat(cls, amplitude: float, flat_us: int, limits: Limits) -> "Lobe":
        """Return the lobe with a flat top of a length, of an amplitude in Hz/m."""
        return cls(
            rise_us=up(1e6 * amplitude / limits.max_slew, limits.grad_raster_us), flat_us=flat_us
        )

    @property
    def us(self) -> int:
        """Return how long it takes."""
        return self.flat_us + 2 * self.rise_us

    def area(self, amplitude: float) -> float:
        """Return the area in cycles/m of an amplitude in Hz/m."""
        return amplitude * (self.flat_us + self.rise_us) * 1e-6

    def amplitude(self, area: Floats) -> Floats:
        """Return the amplitudes in Hz/m of areas in cycles/m."""
        amplitude: Floats = area / ((self.flat_us + self.rise_us) * 1e-6)
        return amplitude


def up(us: float, raster: int) -> int:
    """Return the next multiple of a raster, at least one."""
    return max(math.ceil(us / raster - 1e-6), 1) * raster


def strongest(areas: Sequence[Floats]) -> float:
    """Return the length of the longest of some vectors."""
    return float(max(np.linalg.norm(area) for area in areas))


def drawn(amplitudes: Floats) -> list[tuple[str, float]]:
    """Return the axes that have an amplitude worth drawing."""
    largest = float(np.abs(amplitudes).max())
    return [
        (axis, float(a))
        for axis, a in zip(AXES, amplitudes, strict=True)
        if abs(a) > _LOW * largest
    ]
