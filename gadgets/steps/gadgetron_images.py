"""What Gadgetron's stock chains do to a finished image: parts, intensity, integers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..mrd.items import Image, Item
from ..pipeline.gadget import Gadget
from ..pipeline.scan import Scan
from .image_finish import FLOAT, MAGNITUDE, USHORT

SHORT = 2
PHASE, REAL, IMAGINARY = 2, 3, 4  # image types beside MAGNITUDE
BINS = 100  # of AutoScale's histogram
SHARE = 0.99  # of the pixels that AutoScale makes fit


@dataclass(frozen=True, kw_only=True)
class Extract(Gadget):
    """Split complex images into real-valued ones, each part in its own series.

    The phase is shifted by pi, so that it is not negative.
    """

    extract_mask: int = 0  # bits 1, 2, 4, 8 for the four below, instead of them
    extract_magnitude: bool = True  # in the series of the image
    extract_real: bool = False  # 1000 series on
    extract_imag: bool = False  # 2000 series on
    extract_phase: bool = False  # in radians plus pi, 3000 series on

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the parts of every image, the magnitude first."""
        flags = (self.extract_magnitude, self.extract_real, self.extract_imag, self.extract_phase)
        wanted = [
            bool(self.extract_mask & 1 << bit) if self.extract_mask else flag
            for bit, flag in enumerate(flags)
        ]
        for item in items:
            if isinstance(item, Image):
                for bit in np.flatnonzero(wanted):
                    yield _part(item, int(bit))
            else:
                yield item


def _part(image: Image, bit: int) -> Image:
    pixels: NDArray[Any] = image.data
    data = (np.abs, np.real, np.imag, _phase)[bit](pixels)
    changed = _with_pixels(image, data.astype(np.float32), FLOAT)
    changed.header["image_type"] = (MAGNITUDE, REAL, IMAGINARY, PHASE)[bit]
    changed.header["image_series_index"] += 1000 * bit
    return changed


def _phase(pixels: NDArray[Any]) -> NDArray[Any]:
    angles: NDArray[Any] = np.angle(pixels) + np.pi
    return angles


@dataclass(frozen=True, kw_only=True)
class AutoScale(Gadget):
    """Scale each magnitude image so that 99 % of its pixels lie below `max_value`."""

    max_value: float = 2048.0  # intensity below which 99 % of the pixels come to lie

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Yield scaled images; an empty one stays empty."""
        for item in items:
            if isinstance(item, Image) and int(item.header["image_type"]) == MAGNITUDE:
                pixels: NDArray[Any] = item.data
                yield replace(item, data=pixels * self._factor(pixels))
            else:
                yield item

    def _factor(self, pixels: NDArray[Any]) -> np.float32:
        largest = float(pixels.max())
        if not largest > 0:
            return np.float32(1)
        bins = np.minimum(np.floor(pixels / np.float32(largest) * BINS).astype(int), BINS - 1)
        below = np.cumsum(np.bincount(bins.ravel(), minlength=BINS))
        n_bins = int(np.argmax(below >= SHARE * pixels.size)) + 1
        return np.float32(self.max_value / ((n_bins + 1) * largest / BINS))


@dataclass(frozen=True, kw_only=True)
class _FixedPoint(Gadget):
    """Round to integers, half away from zero, and clip; clipped pixels are counted.

    Real and imaginary parts are shifted by the offset; the phase is scaled so that pi is the
    offset, and shifted.
    """

    data_type: ClassVar[int]
    dtype: ClassVar[type[np.integer[Any]]]
    max_intensity: int  # brighter pixels are clipped to it
    min_intensity: int  # darker pixels are clipped to it
    intensity_offset: int  # zero of real and imaginary parts; pi of the phase

    def __post_init__(self) -> None:
        """Refuse limits that the integers do not hold."""
        limits = np.iinfo(self.dtype)
        if not limits.min <= self.min_intensity < self.max_intensity <= limits.max:
            raise ValueError(
                f"min_intensity is {self.min_intensity}, max_intensity {self.max_intensity}, "
                f"expected {limits.min} <= min < max <= {limits.max}"
            )

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Yield integer images."""
        for item in items:
            yield self._convert(scan, item) if isinstance(item, Image) else item

    def _convert(self, scan: Scan, image: Image) -> Image:
        kind = int(image.header["image_type"])
        pixels: NDArray[Any] = image.data
        values = pixels.astype(np.float64)
        if kind == MAGNITUDE:
            values = np.abs(values)
        elif kind == PHASE:
            values = values * (self.intensity_offset / np.pi) + self.intensity_offset
        else:
            values = values + self.intensity_offset
        rounded = np.copysign(np.floor(np.abs(values) + 0.5), values)
        clipped = np.clip(rounded, self.min_intensity, self.max_intensity)
        scan.counts["saturated pixels"] += int((clipped != rounded).sum())
        return _with_pixels(image, clipped.astype(self.dtype), self.data_type)


@dataclass(frozen=True, kw_only=True)
class FloatToUShort(_FixedPoint):
    """Float images to 12 of 16 bits."""

    data_type = USHORT
    dtype = np.uint16
    max_intensity: int = 4095
    min_intensity: int = 0
    intensity_offset: int = 2048


@dataclass(frozen=True, kw_only=True)
class FloatToShort(_FixedPoint):
    """Float images to signed 16 bits."""

    data_type = SHORT
    dtype = np.int16
    max_intensity: int = 32767
    min_intensity: int = -32768
    intensity_offset: int = 0


def _with_pixels(image: Image, data: NDArray[Any], data_type: int) -> Image:
    header = image.header.copy()
    header["data_type"] = data_type
    return replace(image, header=header, data=data)
