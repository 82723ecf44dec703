"""What flows through a pipeline: a closed union of immutable items.

Arrays follow the project's axis order (coils, x, ky), x the readout; "hybrid" means image space
along x and k-space along ky. A ky *counter* is ``kspace_encode_step_1`` as on the wire; a ky *row*
is its place in the encoded matrix (`gadgets.mrd.geometry` converts).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .header_layouts import ImageKey

Complex = NDArray[np.complex64]
Bool = NDArray[np.bool_]
Ints = NDArray[np.int64]
Meta = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """One readout."""

    header: np.void  # ACQUISITION_HEADER record
    data: Complex  # (coils, samples); samples are kx, or x once `hybrid`
    trajectory: NDArray[np.float32] | None = None  # (samples, dimensions)
    hybrid: bool = False  # True after the readout transform: oversampling cropped, x in image space


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Imaging lines of one image that lay ready together; what loops over lines costs most.

    Their headers agree but for ky, counters, times and what users wrote into them. A gadget that
    does not say that it takes bursts gets the lines one by one.
    """

    headers: NDArray[np.void]  # (lines,) ACQUISITION_HEADER records
    data: Complex  # (lines, coils, samples)
    hybrid: bool = False

    @property
    def header(self) -> np.void:
        """Header of the first line."""
        header: np.void = self.headers[0]
        return header

    @property
    def counters(self) -> Ints:
        """The lines' ky counters."""
        return self.headers["kspace_encode_step_1"].astype(np.int64)

    def only(self, which: Bool) -> "Burst":
        """Return some of the lines."""
        return Burst(headers=self.headers[which], data=self.data[which], hybrid=self.hybrid)

    def lines(self) -> Iterator["Acquisition"]:
        """Give the lines one by one."""
        for header, data in zip(self.headers, self.data, strict=True):
            yield Acquisition(header=header, data=data, hybrid=self.hybrid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """Physiological samples; nothing in our pipelines uses them."""

    header: np.void  # WAVEFORM_HEADER record
    data: NDArray[np.uint32]  # (channels, samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreScan:
    """The calibration lines of one slice, and nothing else, by construction."""

    key: ImageKey
    lines: Complex  # (coils, x, n_calibration), hybrid
    counters: Ints  # (n_calibration,) ky counters, ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """What a slice shall acquire, and why."""

    key: ImageKey
    counters: Ints  # (n_lines,) ky counters, ascending, calibration included
    reason: str  # "predicted", or why it is not
    sent: bool  # to the sequence
    enforced: bool  # the slice is acquired with these counters, unless with the fallback's
    fallback: Ints | None = None  # counters that the sequence takes where no mask reached it
    model: str = ""  # first digits of the weights' hash
    choice: str = ""  # which mask a sampler that can say so chose, and why
    guard: str = ""  # why the slice is none for the sampler, and this its fallback
    seconds: float = 0.0  # last calibration line received -> mask known


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image on its way; every gadget fills in a field."""

    key: ImageKey
    header: np.void  # header of the line closest to the centre of k-space
    kspace: Complex  # (coils, x, ky) hybrid, zero where nothing arrived
    mask: Bool  # (ky,) rows that arrived
    calibration: Bool  # (ky,) rows of the calibration region
    csm: Complex | None = None  # (coils, x, y)
    image: Complex | None = None  # (x, y) in the encoded field of view
    meta: Meta = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A finished MRD image."""

    header: np.void  # IMAGE_HEADER record
    data: NDArray[np.generic]  # (channels, z, y, x)
    meta: Meta = field(default_factory=dict)


Item = Acquisition | Burst | Waveform | PreScan | Mask | Frame | Image
