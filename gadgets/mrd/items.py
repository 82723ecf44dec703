"""What flows through a pipeline: a closed union of immutable items.

Arrays follow the project's axis order (coils, x, ky), x the readout; "hybrid" means image space
along x and k-space along ky. A ky *counter* is ``kspace_encode_step_1`` as on the wire; a ky *row*
is its place in the encoded matrix (`gadgets.mrd.geometry` converts).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex64]
Bool = NDArray[np.bool_]
Ints = NDArray[np.int64]
Meta = Mapping[str, str]

ACQUISITION_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", 3),
        ("number_of_samples", "<u2"),
        ("available_channels", "<u2"),
        ("active_channels", "<u2"),
        ("channel_mask", "<u8", 16),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        ("position", "<f4", 3),
        ("read_dir", "<f4", 3),
        ("phase_dir", "<f4", 3),
        ("slice_dir", "<f4", 3),
        ("patient_table_position", "<f4", 3),
        ("kspace_encode_step_1", "<u2"),
        ("kspace_encode_step_2", "<u2"),
        ("average", "<u2"),
        ("slice", "<u2"),
        ("contrast", "<u2"),
        ("phase", "<u2"),
        ("repetition", "<u2"),
        ("set", "<u2"),
        ("segment", "<u2"),
        ("user", "<u2", 8),
        ("user_int", "<i4", 8),
        ("user_float", "<f4", 8),
    ]
)

IMAGE_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("data_type", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", 3),
        ("field_of_view", "<f4", 3),
        ("channels", "<u2"),
        ("position", "<f4", 3),
        ("read_dir", "<f4", 3),
        ("phase_dir", "<f4", 3),
        ("slice_dir", "<f4", 3),
        ("patient_table_position", "<f4", 3),
        ("average", "<u2"),
        ("slice", "<u2"),
        ("contrast", "<u2"),
        ("phase", "<u2"),
        ("repetition", "<u2"),
        ("set", "<u2"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", 3),
        ("image_type", "<u2"),
        ("image_index", "<u2"),
        ("image_series_index", "<u2"),
        ("user_int", "<i4", 8),
        ("user_float", "<f4", 8),
        ("attribute_string_len", "<u4"),
    ]
)

WAVEFORM_HEADER = np.dtype(
    {
        "names": [
            "version",
            "flags",
            "measurement_uid",
            "scan_counter",
            "time_stamp",
            "number_of_samples",
            "channels",
            "sample_time_us",
            "waveform_id",
        ],
        "formats": ["<u2", "<u8", "<u4", "<u4", "<u4", "<u2", "<u2", "<f4", "<u2"],
        "offsets": [0, 8, 16, 20, 24, 28, 30, 32, 36],
        "itemsize": 40,
    }
)


class Flag:
    """Acquisition flags (ISMRMRD bit numbers, 1-based) as masks."""

    FIRST_IN_SLICE = 1 << 6
    LAST_IN_SLICE = 1 << 7
    FIRST_IN_REPETITION = 1 << 12
    LAST_IN_REPETITION = 1 << 13
    NOISE = 1 << 18
    CALIBRATION = 1 << 19  # reference only, not part of the image
    CALIBRATION_AND_IMAGING = 1 << 20
    REVERSE = 1 << 21
    NAVIGATION = 1 << 22
    PHASE_CORRECTION = 1 << 23
    LAST_IN_MEASUREMENT = 1 << 24
    HP_FEEDBACK = 1 << 25
    DUMMY = 1 << 26
    RT_FEEDBACK = 1 << 27
    SURFACE_COIL_CORRECTION = 1 << 28
    COMPRESSION_ZFP = 1 << 52
    COMPRESSION_NHLBI = 1 << 53
    MASK_CALIBRATION = 1 << 56  # USER1: a calibration line that the mask is predicted from

    NOT_IMAGING = (
        NOISE
        | CALIBRATION
        | NAVIGATION
        | PHASE_CORRECTION
        | HP_FEEDBACK
        | DUMMY
        | RT_FEEDBACK
        | SURFACE_COIL_CORRECTION
    )


def is_imaging(flags: int) -> bool:
    """Say whether a line with these flags is part of the image.

    Some senders flag a line as calibration and as calibration-and-imaging: it is imaged.
    """
    if flags & Flag.CALIBRATION_AND_IMAGING:
        flags &= ~Flag.CALIBRATION
    return not flags & Flag.NOT_IMAGING


class ImageKey(NamedTuple):
    """Which image a line belongs to; averages and segments are summed into it."""

    encoding: int
    slice: int
    contrast: int
    phase: int
    repetition: int
    set: int


# Read for every line, several times: a field by its name costs more than all of these together.
_FLAGS = struct.Struct("<2xQ")
_LOOPS = struct.Struct("<174x H 66x 8H")  # encoding_space_ref, ky, kz, average, slice to set


def flags_of(header: np.void) -> int:
    """Read the flags from an acquisition header."""
    (flags,) = _FLAGS.unpack_from(header)  # type: ignore[arg-type]  # numpy does not declare it
    return int(flags)


def image_key(header: np.void) -> ImageKey:
    """Read the group key from an acquisition header."""
    encoding, _, _, _, *loops = _LOOPS.unpack_from(header)  # type: ignore[arg-type]
    return ImageKey(encoding, *loops)


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
