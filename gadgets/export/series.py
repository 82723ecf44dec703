"""Images sorted into series, and the pixels of each as integers with one scale."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..mrd.image_attributes import MASK_ROLE
from ..mrd.items import Image
from ..steps.image_finish import PHASE
from .placement import named

LOOPS = ("set", "phase", "contrast", "repetition")  # the outermost first
FULL = 65535  # the largest stored value


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Images of one series, in order: loops outermost, slices innermost."""

    number: int
    images: tuple[Image, ...]


def series_of(images: Iterable[Image]) -> list[Series]:
    """Sort images by series; those that show a sampling mask are left out.

    Raises
    ------
    ConfigError
        If none is left, one has several channels or partitions, or two have the same place.
    """
    found: dict[int, list[Image]] = {}
    n_masks = 0
    for image in images:
        if image.meta.get("DataRole") == MASK_ROLE:
            n_masks += 1
            continue
        if image.data.ndim != 4 or image.data.shape[:2] != (1, 1):
            raise ConfigError(
                f"{named(image)} has shape {image.data.shape} (channels, z, y, x), expected one "
                "channel and one partition: only 2-D images are exported"
            )
        found.setdefault(int(image.header["image_series_index"]), []).append(image)
    if not found:
        masks = f", only {n_masks} sampling masks" if n_masks else ""
        raise ConfigError(f"there is no image to export{masks}")
    return [Series(number=number, images=tuple(_sorted(found[number]))) for number in sorted(found)]


def loops(image: Image) -> tuple[int, ...]:
    """Return the counters of an image but its slice's, the outermost first."""
    return tuple(int(image.header[name]) for name in LOOPS)


def _sorted(images: list[Image]) -> list[Image]:
    places: dict[tuple[int, ...], Image] = {}
    for image in images:
        place = (*loops(image), int(image.header["slice"]))
        if place in places:
            raise ConfigError(
                f"{named(image)} has the same slice, contrast, phase, repetition and set as image "
                f"{int(places[place].header['image_index'])}: which one is meant?"
            )
        places[place] = image
    return [places[place] for place in sorted(places)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Pixels as 16-bit integers: value = slope * stored + intercept."""

    pixels: NDArray[np.uint16]  # (y, x)
    slope: float
    intercept: float
    window: tuple[float, float]  # centre and width, of values


def stored(series: Series) -> list[Stored]:
    """Give every image's pixels as integers; of floats, the whole series has one scale.

    Complex images give their magnitude. NaN and infinity become 0.
    """
    values = [_real(image) for image in series.images]
    if all(value.dtype.kind == "u" and value.dtype.itemsize <= 2 for value in values):
        return [
            _as_it_is(image, value.astype(np.uint16))
            for image, value in zip(series.images, values, strict=True)
        ]
    finite = [np.where(np.isfinite(value), value, 0).astype(np.float64) for value in values]
    low = min(0.0, min(float(value.min()) for value in finite))
    high = max(float(value.max()) for value in finite)
    slope = (high - low) / FULL or 1.0
    return [
        Stored(
            pixels=np.rint((value - low) / slope).astype(np.uint16),
            slope=slope,
            intercept=low,
            window=_window(image, (low, high)),
        )
        for image, value in zip(series.images, finite, strict=True)
    ]


def values_of(image: Image) -> NDArray[np.generic]:
    """Return an image's values (y, x) with its scale: magnitude, phase, or complex numbers."""
    data: NDArray[np.generic] = image.data[0, 0]
    slope, intercept = _number(image, "RescaleSlope", 1.0), _number(image, "RescaleIntercept", 0.0)
    if (slope, intercept) == (1.0, 0.0):
        return data
    numbers: NDArray[Any] = data
    scaled: NDArray[np.generic] = (numbers * np.float64(slope) + intercept).astype(np.float32)
    return scaled


def _real(image: Image) -> NDArray[np.generic]:
    data: NDArray[np.generic] = image.data[0, 0]
    return np.abs(data.astype(np.complex128)) if data.dtype.kind == "c" else data


def _as_it_is(image: Image, pixels: NDArray[np.uint16]) -> Stored:
    slope, intercept = _number(image, "RescaleSlope", 1.0), _number(image, "RescaleIntercept", 0.0)
    ends = intercept, intercept + slope * max(int(pixels.max()), 1)
    return Stored(
        pixels=pixels, slope=slope, intercept=intercept, window=_window(image, (ends[0], ends[1]))
    )


def _window(image: Image, ends: tuple[float, float]) -> tuple[float, float]:
    """Return the window that an image comes with, or one of all its values."""
    width = _number(image, "WindowWidth", 0.0)
    if width > 0 and "WindowCenter" in image.meta and int(image.header["image_type"]) != PHASE:
        return _number(image, "WindowCenter", 0.0), width
    return (ends[0] + ends[1]) / 2, max(ends[1] - ends[0], 1e-9)


def _number(image: Image, name: str, default: float) -> float:
    """Return a meta attribute that is a number; ConfigError where it is none."""
    text = image.meta.get(name)
    if text is None:
        return default
    try:
        value = float(text.split("\\")[0])
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ConfigError(f"{named(image)}: {name} is {text!r}, expected a number")
    return value
