"""MRD 2 streams, in files and pipes, by the package mrd-python (PyPI, extra `mrd2`)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import ProtocolError
from ..mrd.header_layouts import IMAGE_HEADER
from ..mrd.item_bytes import PIXEL_TYPES
from ..mrd.items import Acquisition, Image, Waveform
from .mrd2 import (
    acquisition,
    from_acquisition,
    from_waveform,
    from_xml,
    library,
    to_xml,
    waveform,
)

MAGIC = b"yardl"
SUFFIX = ".mrd2"
# What mrd-python was seen to raise for streams that are cut or of another version.
_UNREADABLE = (RuntimeError, BufferError, EOFError, ValueError, LookupError, OSError)
# Names of an image header's fields where MRD 2 has others, or none that are lists of numbers.
_AXES = {"read_dir": "col_dir", "phase_dir": "line_dir", "slice_dir": "slice_dir"}
_PLACES = ("field_of_view", "position", "patient_table_position")
_NUMBERS = ("average", "slice", "contrast", "phase", "repetition", "set",
            "acquisition_time_stamp", "image_index", "image_series_index")  # fmt: skip
_LISTS = ("physiology_time_stamp", "user_int", "user_float")
_KINDS = {"<u2": "Uint16", "<i2": "Int16", "<u4": "Uint32", "<i4": "Int32", "<f4": "Float",
          "<f8": "Double", "<c8": "ComplexFloat", "<c16": "ComplexDouble"}  # fmt: skip
_CODES = {kind.str: code for code, kind in PIXEL_TYPES.items()}


class Mrd2Reader:
    """A stream's header as ISMRMRD XML, then its items.

    Raises
    ------
    ConfigError
        If mrd-python is not installed.
    ProtocolError
        If the stream is cut, of a version that mrd-python does not read, or without a header.
    """

    def __init__(self, file: BinaryIO, name: str = "the input") -> None:
        self._mrd, self._name = library(), name
        try:
            self._reader = self._mrd.BinaryMrdReader(file)
            header = self._reader.read_header()
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        if header is None:
            raise ProtocolError(f"{name}: the MRD 2 stream has no header")
        self.header: bytes = to_xml(header)

    def items(self) -> Iterator[Acquisition | Waveform | Image]:
        """Give readouts, waveforms and images; whatever else MRD 2 knows is passed over."""
        kinds = self._mrd.StreamItem
        images = tuple(getattr(kinds, f"Image{kind}") for kind in _KINDS.values())
        try:
            for item in self._reader.read_data():
                if isinstance(item, kinds.Acquisition):
                    yield acquisition(item.value)
                elif isinstance(item, kinds.WaveformUint32):
                    yield waveform(item.value)
                elif isinstance(item, images):
                    yield _image(item.value)
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> ProtocolError:
        return ProtocolError(f"{self._name} cannot be read as an MRD 2 stream: {error}")


class Mrd2Writer:
    """A stream that begins with a header, ISMRMRD XML; `close` says that it is whole.

    Raises
    ------
    ConfigError, HeaderError
        If mrd-python is not installed; as `Geometry.parse` for a header that is no XML.
    """

    def __init__(self, file: BinaryIO, header: bytes) -> None:
        self._mrd = library()
        self._writer = self._mrd.BinaryMrdWriter(file)
        self._writer.write_header(from_xml(self._mrd, header))
        self._writer.write_data([])  # there may be none

    def put(self, item: Acquisition | Waveform | Image) -> None:
        """Write an item, and have it leave at once."""
        self.put_all([item])
        self._writer._stream.flush()  # mrd-python has no public way, and holds 64 KiB back

    def put_all(self, items: Iterable[Acquisition | Waveform | Image]) -> None:
        """Write items, which leave as a buffer is full."""
        for item in items:  # a list each: of an iterator mrd-python forgets to look for room
            self._writer.write_data([self._theirs(item)])

    def _theirs(self, item: Acquisition | Waveform | Image) -> Any:
        kinds = self._mrd.StreamItem
        if isinstance(item, Acquisition):
            return kinds.Acquisition(from_acquisition(self._mrd, item))
        if isinstance(item, Waveform):
            return kinds.WaveformUint32(from_waveform(self._mrd, item))
        kind = _KINDS[item.data.dtype.newbyteorder("<").str]
        return getattr(kinds, f"Image{kind}")(_from_image(self._mrd, item))

    def close(self) -> None:
        """End the stream."""
        self._writer.close()


def read_mrd2(path: Path) -> tuple[bytes, list[Acquisition], list[Waveform]]:
    """Read the raw data of a file: the header as ISMRMRD XML, readouts, waveforms.

    Raises as `Mrd2Reader`, and ProtocolError where there are no readouts.
    """
    with path.open("rb") as file:
        reader = Mrd2Reader(file, str(path))
        items = list(reader.items())
    lines = [item for item in items if isinstance(item, Acquisition)]
    if not lines:
        raise ProtocolError(f"{path}: the MRD 2 stream has no acquisitions")
    return reader.header, lines, [item for item in items if isinstance(item, Waveform)]


def read_mrd2_images(path: Path) -> list[Image]:
    """Read the images of a file; raises as `Mrd2Reader`."""
    with path.open("rb") as file:
        return [item for item in Mrd2Reader(file, str(path)).items() if isinstance(item, Image)]


def write_mrd2(
    path: Path, header: bytes, lines: Iterable[Acquisition], waves: Iterable[Waveform] = ()
) -> None:
    """Write raw data; raises as `Mrd2Writer`.

    The file appears under its name only when it is whole.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            writer = Mrd2Writer(file, header)
            writer.put_all(lines)
            writer.put_all(waves)
            writer.close()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _image(theirs: Any) -> Image:
    head, data = theirs.head, np.ascontiguousarray(theirs.data)
    header = np.zeros(1, IMAGE_HEADER)[0]
    header["version"], header["flags"] = 1, int(head.flags)
    header["data_type"] = _CODES[data.dtype.newbyteorder("<").str]
    header["measurement_uid"], header["image_type"] = head.measurement_uid, head.image_type.value
    header["channels"], header["matrix_size"] = data.shape[0], data.shape[:0:-1]
    for name in _PLACES:
        header[name] = getattr(head, name)
    for name, other in _AXES.items():
        header[name] = getattr(head, other)
    for name in _NUMBERS:
        header[name] = getattr(head, name) or 0
    for name in _LISTS:
        values = getattr(head, name)[: header[name].size]
        header[name][: len(values)] = values
    meta = {
        name: "\\".join(str(one.value) for one in values) for name, values in theirs.meta.items()
    }
    return Image(header=header, data=data, meta=meta)


def _from_image(mrd: Any, image: Image) -> Any:
    header = image.header
    head = mrd.ImageHeader(
        flags=mrd.ImageFlags(int(header["flags"])),
        measurement_uid=int(header["measurement_uid"]),
        image_type=mrd.ImageType(int(header["image_type"])),
        **{name: np.asarray(header[name], np.float32) for name in _PLACES},
        **{other: np.asarray(header[name], np.float32) for name, other in _AXES.items()},
        **{name: int(header[name]) for name in _NUMBERS},
        **{name: header[name].tolist() for name in _LISTS},
    )
    meta = {
        name: [mrd.ImageMetaValue.String(one) for one in value.split("\\")]
        for name, value in image.meta.items()
    }
    return mrd.Image(head=head, data=np.asarray(image.data), meta=meta)
