"""Small scans made up in memory: a phantom in front of smooth coils, as acquisitions of the wire.

The Fourier transforms are NumPy's, so that what is computed from them is an independent oracle.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import ACQUISITION_HEADER, Flag
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.items import Acquisition
from gadgets.pipeline.models import Models

Array = NDArray[Any]


def fft(x: Array, axis: int) -> Array:
    """Image to k-space, centred at n // 2, orthonormal."""
    spectrum = np.fft.fft(np.fft.ifftshift(x, axes=axis), axis=axis, norm="ortho")
    return np.fft.fftshift(spectrum, axes=axis)


def ifft(x: Array, axis: int) -> Array:
    """K-space to image, the inverse of `fft`."""
    image = np.fft.ifft(np.fft.ifftshift(x, axes=axis), axis=axis, norm="ortho")
    return np.fft.fftshift(image, axes=axis)


def crop(x: Array, n: int, axis: int) -> Array:
    start = x.shape[axis] // 2 - n // 2
    return np.take(x, range(start, start + n), axis=axis)


def coil_images(n_x: int, n_y: int, n_coils: int, seed: int = 0) -> Array:
    """Return (coils, x, y): an ellipse with a structure that the seed moves, seen by each coil."""
    x, y = np.meshgrid(
        (np.arange(n_x) - n_x // 2) / n_x, (np.arange(n_y) - n_y // 2) / n_y, indexing="ij"
    )
    rng = np.random.default_rng(seed)
    at = rng.uniform(-0.1, 0.1, 2)
    image = 1.0 * ((x / 0.4) ** 2 + (y / 0.38) ** 2 < 1)
    image += 0.7 * (((x - at[0]) / 0.12) ** 2 + ((y - at[1]) / 0.15) ** 2 < 1)
    angles = 2 * np.pi * np.arange(n_coils) / n_coils
    maps = [np.exp(-2 * ((x - np.cos(a)) ** 2 + (y - np.sin(a)) ** 2) + 1j * a) for a in angles]
    return np.stack(maps) * image * np.exp(2j * x + 1j * y)


class Fixed(Models):
    """Models from memory."""

    def __init__(self, **models: nn.Module) -> None:
        super().__init__()
        for name, model in models.items():
            self._loaded[name] = model.eval().requires_grad_(False), {"sha256": "0123abcd" * 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """A scan of one object per slice, fully sampled unless lines are left out."""

    header: bytes
    geometry: Geometry
    kspace: Array  # (slices, coils, kx, ky) complex64, readout oversampled

    def line(self, counter: int, slice_: int = 0, **fields: Any) -> Acquisition:
        """Return one line as it comes over the wire; other fields go into its header."""
        row = self.geometry.row(counter)
        inside = 0 <= row < self.geometry.n_ky
        data = self.kspace[slice_, :, :, row] if inside else self.kspace[slice_, :, :, 0]
        return acquisition(data, kspace_encode_step_1=counter, slice=slice_, **fields)

    def lines(
        self, slice_: int = 0, counters: Iterable[int] | None = None, **fields: Any
    ) -> list[Acquisition]:
        """Return lines in the order of their counters, by default those of the limits."""
        wanted = self.geometry.limit_counters if counters is None else counters
        return [self.line(int(c), slice_, **fields) for c in wanted]

    def hybrid(self, slice_: int = 0) -> Array:
        """Return (coils, x, ky) with the oversampling cropped, rows outside the limits zero."""
        hybrid = crop(ifft(self.kspace[slice_], 1), self.geometry.n_x, 1)
        there = np.zeros(self.geometry.n_ky, bool)
        there[self.geometry.row(self.geometry.limit_counters)] = True
        return hybrid * there


def scanned(
    *,
    n_x: int = 24,
    n_ky: int = 32,
    n_coils: int = 3,
    oversampling: int = 2,
    n_slices: int = 1,
    seed: int = 0,
    **header: Any,
) -> Scanned:
    """Make a scan; pixels are 1 mm wide and other arguments go to `header_xml`."""
    values: dict[str, Any] = {
        "encoded": (n_x * oversampling, n_ky, 1),
        "encoded_fov": (n_x * oversampling, n_ky, 5),
        "recon": (n_x, n_ky, 1),
        "recon_fov": (n_x, n_ky, 5),
        "n_coils": n_coils,
        "n_slices": n_slices,
    }
    xml = header_xml(**(values | header))
    wide = np.zeros((n_slices, n_coils, n_x * oversampling, n_ky), complex)
    start = n_x * oversampling // 2 - n_x // 2
    for slice_ in range(n_slices):
        images = coil_images(n_x, n_ky, n_coils, seed + slice_)
        wide[slice_, :, start : start + n_x] = images
    kspace = fft(fft(wide, 2), 3).astype(np.complex64)
    return Scanned(header=xml, geometry=Geometry.parse(xml), kspace=kspace)


def acquisition(data: Array, **fields: Any) -> Acquisition:
    """Return one readout, its echo in the middle unless `center_sample` says otherwise."""
    header = np.zeros(1, ACQUISITION_HEADER)[0]
    header["version"] = 1
    header["active_channels"], header["number_of_samples"] = data.shape
    header["center_sample"] = data.shape[1] // 2
    header["sample_time_us"] = 5.0
    header["read_dir"], header["phase_dir"], header["slice_dir"] = np.eye(3)
    for name, value in fields.items():
        header[name] = value
    read_only = np.frombuffer(np.ascontiguousarray(data, np.complex64).tobytes(), np.complex64)
    return Acquisition(header=header, data=read_only.reshape(data.shape))


def noise(n_coils: int, n_samples: int = 4096, seed: int = 5, **fields: Any) -> Acquisition:
    """Return correlated noise of unequal power."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(2, n_coils, n_samples))
    mix = np.eye(n_coils) * (1 + np.arange(n_coils)) + 0.3 * rng.normal(size=(n_coils, n_coils))
    return acquisition(mix @ (white[0] + 1j * white[1]), **{"flags": Flag.NOISE, **fields})


def changed(line: Acquisition, **fields: Any) -> Acquisition:
    """Return a line with other header fields."""
    header = line.header.copy()
    for name, value in fields.items():
        header[name] = value
    return replace(line, header=header)
