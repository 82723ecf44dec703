"""The fixed headers of MRD: their bytes, flags, and which image a line belongs to.

Layouts are those of ISMRMRD 1, little-endian and packed:
https://ismrmrd.readthedocs.io/en/latest/mrd_raw_data.html.
"""

import struct
from typing import NamedTuple

import numpy as np

ACQUISITION_ID = 1008  # of the message that such a header begins

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
