"""How acquisitions, images and waveforms lie on the wire: a fixed header, then arrays.

Lengths that a peer declares are bounded before anything is allocated. Arrays are views of the
bytes that were read; what is written is not copied.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError
from .header_layouts import ACQUISITION_HEADER, IMAGE_HEADER, WAVEFORM_HEADER, Flag
from .image_attributes import meta_from_xml, meta_to_xml
from .items import Acquisition, Image, Waveform
from .nhlbi import decompress

Buffer = bytes | bytearray | memoryview
Read = Callable[[int], Buffer]

MAX_TEXT = 16 << 20  # bytes
MAX_SAMPLES = 1 << 30  # bytes of one acquisition, image or waveform

PIXEL_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u2"),
    2: np.dtype("<i2"),
    3: np.dtype("<u4"),
    4: np.dtype("<i4"),
    5: np.dtype("<f4"),
    6: np.dtype("<f8"),
    7: np.dtype("<c8"),
    8: np.dtype("<c16"),
}
_F4, _C8, _U4 = np.dtype("<f4"), np.dtype("<c8"), np.dtype("<u4")


def _bounded(length: int, limit: int, what: str) -> int:
    if length > limit:
        raise ProtocolError(f"{what} of {length} bytes declared, at most {limit} are accepted")
    return length


def read_block(read: Read, length_format: str, what: str) -> bytes:
    """Read a length and that many bytes; ProtocolError above MAX_TEXT."""
    (length,) = struct.unpack(length_format, read(struct.calcsize(length_format)))
    return bytes(read(_bounded(length, MAX_TEXT, what)))


def block(length_format: str, data: bytes) -> list[Buffer]:
    """Put the length before bytes."""
    return [struct.pack(length_format, len(data)), data]


def decode(data: bytes) -> str:
    """Give the text of a block, without terminating NULs."""
    # Some senders count a terminating NUL in; broken text must not hide what it says.
    return data.rstrip(b"\0").decode("utf-8", "replace")


def _n_bytes(dtype: np.dtype[Any], shape: Sequence[int], what: str) -> int:
    """Return how many bytes an array has; ProtocolError above MAX_SAMPLES."""
    return _bounded(dtype.itemsize * math.prod(shape), MAX_SAMPLES, what)


def _array_buffer(array: NDArray[Any], dtype: np.dtype[Any] | str) -> memoryview:
    contiguous = np.ascontiguousarray(array, dtype)
    return contiguous.reshape(-1).view(np.uint8).data


def _agree(what: str, declared: Sequence[int], actual: Sequence[int]) -> None:
    if tuple(declared) != tuple(actual):
        raise ProtocolError(f"{what}: the header says {tuple(declared)}, the data {tuple(actual)}")


def read_acquisition(read: Read) -> Acquisition:
    """Read one readout; ProtocolError if its samples are compressed in a way not read here.

    NHLBI-compressed samples are decoded, and the header no longer says that they are compressed.
    """
    header = np.frombuffer(read(ACQUISITION_HEADER.itemsize), ACQUISITION_HEADER)[0]
    flags = int(header["flags"])
    if flags & Flag.COMPRESSION_ZFP:
        raise ProtocolError(
            f"acquisition {int(header['scan_counter'])} is ZFP-compressed; plain and "
            "NHLBI-compressed samples are read: choose one of them at the sender"
        )
    samples = int(header["number_of_samples"])
    shape = int(header["active_channels"]), samples
    dimensions = int(header["trajectory_dimensions"])
    trajectory = None
    if dimensions:
        points = read(_n_bytes(_F4, (samples, dimensions), "trajectory"))
        trajectory = np.frombuffer(points, _F4).reshape(samples, dimensions)
    if flags & Flag.COMPRESSION_NHLBI:
        header = header.copy()
        header["flags"] = flags & ~Flag.COMPRESSION_NHLBI
        packed = read_block(read, "<I", "NHLBI-compressed acquisition")
        data = decompress(packed, shape[0] * samples).reshape(shape)
    else:
        data = np.frombuffer(read(_n_bytes(_C8, shape, "acquisition")), _C8).reshape(shape)
    return Acquisition(header=header, data=data, trajectory=trajectory)


def write_acquisition(message: Acquisition) -> list[Buffer]:
    """Encode one readout; ProtocolError if header and data disagree."""
    header = message.header
    if message.hybrid:
        raise ProtocolError("an acquisition in hybrid space is no k-space and cannot be sent")
    declared = int(header["active_channels"]), int(header["number_of_samples"])
    _agree("acquisition (channels, samples)", declared, message.data.shape)
    buffers: list[Buffer] = [header.tobytes()]
    points = (0,) if message.trajectory is None else message.trajectory.shape[-1:]
    _agree("trajectory (dimensions,)", (int(header["trajectory_dimensions"]),), points)
    if message.trajectory is not None:
        buffers.append(_array_buffer(message.trajectory, "<f4"))
    return [*buffers, _array_buffer(message.data, "<c8")]


def read_waveform(read: Read) -> Waveform:
    """Read physiological samples."""
    header = np.frombuffer(read(WAVEFORM_HEADER.itemsize), WAVEFORM_HEADER)[0]
    shape = int(header["channels"]), int(header["number_of_samples"])
    data = np.frombuffer(read(_n_bytes(_U4, shape, "waveform")), _U4).reshape(shape)
    return Waveform(header=header, data=data)


def write_waveform(message: Waveform) -> list[Buffer]:
    """Encode physiological samples; ProtocolError if header and data disagree."""
    declared = int(message.header["channels"]), int(message.header["number_of_samples"])
    _agree("waveform (channels, samples)", declared, message.data.shape)
    header = np.zeros(1, WAVEFORM_HEADER)  # zero padding: the source's may be stray memory
    for name in WAVEFORM_HEADER.names or ():
        header[name] = message.header[name]
    return [header.tobytes(), _array_buffer(message.data, "<u4")]


def read_image(read: Read) -> Image:
    """Read one image; ProtocolError if its pixel type is unknown."""
    header = np.frombuffer(read(IMAGE_HEADER.itemsize), IMAGE_HEADER)[0]
    dtype = PIXEL_TYPES.get(int(header["data_type"]))
    if dtype is None:
        known = ", ".join(f"{number} {kind}" for number, kind in PIXEL_TYPES.items())
        raise ProtocolError(
            f"image data type {int(header['data_type'])} is unknown; known: {known}"
        )
    meta = meta_from_xml(read_block(read, "<Q", "image attributes"))
    shape = _image_shape(header)
    data = np.frombuffer(read(_n_bytes(dtype, shape, "image")), dtype).reshape(shape)
    return Image(header=header, data=data, meta=meta)


def write_image(message: Image) -> list[Buffer]:
    """Encode one image; ProtocolError if header and data disagree."""
    header, data = message.header.copy(), message.data
    _agree("image (channels, z, y, x)", _image_shape(header), data.shape)
    dtype = PIXEL_TYPES.get(int(header["data_type"]))
    if dtype != data.dtype:
        raise ProtocolError(f"image pixels: the header says {dtype}, the data {data.dtype}")
    meta = meta_to_xml(message.meta)
    header["attribute_string_len"] = len(meta)
    return [header.tobytes(), *block("<Q", meta), _array_buffer(data, dtype)]


def _image_shape(header: np.void) -> tuple[int, int, int, int]:
    x, y, z = (int(size) for size in header["matrix_size"])
    return int(header["channels"]), z, y, x
