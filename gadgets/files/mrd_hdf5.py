"""MRD HDF5: the files that the ISMRMRD tools and `gadgetron_ismrmrd_client` read and write.

Raw data live in a group, mostly ``/dataset``, as ``xml``, ``data`` and ``waveforms``; images in
``/GROUP/image_<series>`` as ``data`` (image, channel, z, y, x), ``header`` and ``attributes``.
Rows are read and written many at a time: one by one costs 26 times as much. A whole file is read
in one go; who wants one image at a time reads the headers first, and then the lines of each.
Functions of an open file are tasks of `gadgets.files.hdf5_process`, which give JSON and arrays.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError
from ..mrd.header_layouts import ACQUISITION_HEADER, IMAGE_HEADER, WAVEFORM_HEADER
from ..mrd.image_attributes import meta_from_xml, meta_to_xml
from ..mrd.items import Acquisition, Image, Ints, Waveform
from .hdf5 import dataset, has, one_text, subject_of
from .hdf5_process import Json, Piece, read_apart

_BLOCK = 512  # rows written at a time
_TEXT = h5py.string_dtype("ascii")  # what C++ readers expect
_COUNTERS = ACQUISITION_HEADER.names[21:31] if ACQUISITION_HEADER.names else ()


def _nested(flat: np.dtype[Any]) -> np.dtype[Any]:
    """Give the acquisition header as files have it: the counters in a record of their own."""
    fields: list[Any] = [(name, flat[name]) for name in flat.names or ()]
    idx = [entry for entry in fields if entry[0] in _COUNTERS]
    start = fields.index(idx[0])
    return np.dtype([*fields[:start], ("idx", np.dtype(idx)), *fields[start + len(idx) :]])


_FILE_HEADER = _nested(ACQUISITION_HEADER)  # the same 340 bytes
_ACQUISITION_ROW = np.dtype(
    [
        ("head", _FILE_HEADER),
        ("traj", h5py.vlen_dtype(np.dtype("<f4"))),
        ("data", h5py.vlen_dtype(np.dtype("<f4"))),
    ]
)
_WAVEFORM_ROW = np.dtype([("head", WAVEFORM_HEADER), ("data", h5py.vlen_dtype(np.dtype("<u4")))])
_COMPLEX = {
    np.dtype("<c8"): np.dtype([("real", "<f4"), ("imag", "<f4")]),
    np.dtype("<c16"): np.dtype([("real", "<f8"), ("imag", "<f8")]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MrdFile:
    """The raw data of a file, which stay there until they are asked for.

    Methods raise ProtocolError where the file is damaged, or where a row's data do not have the
    size that its header says.
    """

    kind: ClassVar[str] = "MRD HDF5"
    path: Path
    group: str
    header: bytes  # XML
    subject: str  # whose scan it is
    assumed: ClassVar[tuple[str, ...]] = ()  # in place of a header; an MRD file has one

    @classmethod
    def of(cls, path: Path, group: str = "dataset") -> "MrdFile":
        """Look at a group of a file, which holds `xml`; ProtocolError if no raw data."""
        found, (header,) = read_apart(path, f"{__name__}:look", group=group)
        return cls(path=path, group=group, header=header.tobytes(), subject=found["subject"])

    def headers(self) -> NDArray[np.void]:
        """Read all headers (lines,), ACQUISITION_HEADER records in file order."""
        _, (headers,) = read_apart(self.path, f"{__name__}:line_headers", group=self.group)
        return headers.view(ACQUISITION_HEADER)

    def lines(self, numbers: Ints | None = None) -> list[Acquisition]:
        """Read the lines of some numbers, which ascend; all lines where none are given."""
        wanted = None if numbers is None else numbers.tolist()
        _, arrays = read_apart(self.path, f"{__name__}:lines", group=self.group, numbers=wanted)
        headers, data, ends, trajectories, trajectory_ends = arrays
        order = range(len(ends)) if wanted is None else wanted
        columns = (
            headers.view(ACQUISITION_HEADER),
            _cut(data, ends),
            _cut(trajectories, trajectory_ends),
        )
        try:
            return [_acquisition(*line) for line in zip(order, *columns, strict=True)]
        except ProtocolError as error:
            raise ProtocolError(f"{self.path}: {error}") from error

    def waveforms(self) -> list[Waveform]:
        """Read all waveforms, in file order."""
        _, arrays = read_apart(self.path, f"{__name__}:waveforms", group=self.group)
        headers, data, ends = arrays
        pairs = zip(headers.view(WAVEFORM_HEADER), _cut(data, ends), strict=True)
        try:
            return [_waveform(i, *pair) for i, pair in enumerate(pairs)]
        except ProtocolError as error:
            raise ProtocolError(f"{self.path}: {error}") from error


def contents(file: h5py.File) -> tuple[Json, list[Piece]]:
    """List what is in an open file: its members, and the groups that hold an MRD header."""
    found: list[str] = []

    def visit(name: str, node: Any) -> None:  # follows no links
        if isinstance(node, h5py.Group) and has(node, "xml"):
            found.append(name)

    file.visititems(visit)
    return {"members": sorted(file.keys()), "groups": found}, []


def look(file: h5py.File, group: str) -> tuple[Json, list[Piece]]:
    """Give the MRD header of a group whose lines can be read, and whose scan it is."""
    header = np.frombuffer(one_text(file[group], "xml"), np.uint8)
    _table(file[group], "data", _ACQUISITION_ROW)
    return {"subject": subject_of(file)}, [header]


def line_headers(file: h5py.File, group: str) -> tuple[Json, list[Piece]]:
    """Give all headers of lines, as bytes."""
    table = _table(file[group], "data", _ACQUISITION_ROW)
    return {}, [_bytes(_line_headers(table.fields("head")[()].reshape(-1)))]


def lines(file: h5py.File, group: str, numbers: Sequence[int] | None) -> tuple[Json, list[Piece]]:
    """Give headers, data and trajectories of lines, laid end to end, and where each one ends."""
    table = _table(file[group], "data", _ACQUISITION_ROW)
    rows = table[() if numbers is None else np.array(numbers, int)].reshape(-1)
    headers = _bytes(_line_headers(rows["head"]))
    pieces: list[Piece] = [headers]
    for name in ("data", "traj"):
        values = [_numbers(one, table.dtype[name]) for one in rows[name]]
        pieces += [values, _ends(values)]
    return {}, pieces


def waveforms(file: h5py.File, group: str) -> tuple[Json, list[Piece]]:
    """Give headers and data of waveforms as `lines` does; none where the group has none."""
    if not has(file[group], "waveforms"):
        rows = np.zeros(0, _WAVEFORM_ROW)
    else:
        stored = dataset(file[group], "waveforms")
        if stored.dtype.names != _WAVEFORM_ROW.names:
            raise ProtocolError(
                f"{stored.name}: expected fields {_WAVEFORM_ROW.names}, got {stored.dtype}"
            )
        rows = stored[()].reshape(-1)
    values = [np.asarray(one, "<u4") for one in rows["data"]]
    headers = _bytes(_headers(rows["head"], WAVEFORM_HEADER))
    return {}, [headers, values or np.zeros(0, "<u4"), _ends(values)]


def _table(group: h5py.Group, name: str, row: np.dtype[Any]) -> h5py.Dataset:
    """Return a table of at least one row with these fields, one row per line."""
    if not has(group, name):
        raise ProtocolError(f"{group.name} has an MRD header (xml), but no acquisitions (data)")
    table = dataset(group, name)
    if table.dtype.names != row.names:
        raise ProtocolError(f"{table.name}: expected fields {row.names}, got {table.dtype}")
    if not table.shape or table.size != table.shape[0]:  # some writers make it (lines, 1)
        raise ProtocolError(f"{table.name}: expected one row per line, got {table.shape}")
    if table.size == 0:
        raise ProtocolError(f"{table.name} has no acquisitions")
    return table


def _bytes(records: NDArray[np.void]) -> NDArray[np.uint8]:
    return np.frombuffer(records.tobytes(), np.uint8)


def _cut(flat: NDArray[Any], ends: Ints) -> list[NDArray[Any]]:
    """Undo laying end to end."""
    places = [0, *ends.tolist()]
    return [flat[start:end] for start, end in pairwise(places)]


def _ends(values: Sequence[NDArray[Any]]) -> Ints:
    return np.cumsum([one.size for one in values], dtype=np.int64)


def write_mrd(
    path: Path,
    header: bytes,
    acquisitions: Iterable[Acquisition],
    waveforms: Iterable[Waveform] = (),
    *,
    private: bool = False,
) -> None:
    """Write raw data; the file appears under its name only when it is whole.

    A private file can be read by its owner alone, from its first byte.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        if private:
            part.unlink(missing_ok=True)  # of a write that was killed, with another mode perhaps
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with h5py.File(part, "w") as file:
            group = file.create_group("dataset")
            group.create_dataset("xml", (1,), _TEXT)[0] = header.rstrip(b"\0")
            _append(group, "data", _ACQUISITION_ROW, map(_acquisition_row, acquisitions))
            _append(group, "waveforms", _WAVEFORM_ROW, map(_waveform_row, waveforms))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_images(path: Path, images: Iterable[Image], group: str) -> None:
    """Write images by series; a group of that name in the file is replaced.

    Raises ProtocolError where the images of one series differ in shape or pixel type, which the
    layout cannot hold.
    """
    series: dict[int, list[Image]] = {}
    for image in images:
        series.setdefault(int(image.header["image_series_index"]), []).append(image)
    for index, members in series.items():
        kinds = {(image.data.shape, image.data.dtype.str) for image in members}
        if len(kinds) > 1:
            raise ProtocolError(
                f"images of series {index} must have one shape and type to be stored, "
                f"got {sorted(kinds)}"
            )
    with h5py.File(path, "a") as file:
        if group in file:
            del file[group]
        parent = file.create_group(group)
        for index, members in series.items():
            _write_series(parent.create_group(f"image_{index}"), members)


def read_images(path: Path) -> list[Image]:
    """Read every image of a file, whatever its group, by group and series.

    Raises ProtocolError where the file is damaged.
    """
    found, arrays = read_apart(Path(path), f"{__name__}:image_series")
    images = []
    for attributes, headers, data in zip(
        found["attributes"], arrays[::2], arrays[1::2], strict=True
    ):
        rows = zip(headers.view(IMAGE_HEADER), data, attributes, strict=True)
        images += [
            Image(header=header, data=pixels, meta=meta_from_xml(text.encode()))
            for header, pixels, text in rows
        ]
    return images


def has_series(path: Path) -> bool:
    """Say whether a file holds images; ProtocolError where it is damaged."""
    found, _ = read_apart(path, f"{__name__}:series")
    return bool(found["series"])


def series(file: h5py.File) -> tuple[Json, list[Piece]]:
    """Name the groups that hold a series of images."""
    names: list[str] = []
    file.visititems(lambda name, node: names.append(name) if _is_series(node) else None)
    return {"series": names}, []


def _is_series(node: Any) -> bool:
    return isinstance(node, h5py.Group) and {"data", "header", "attributes"} <= set(node)


def image_series(file: h5py.File) -> tuple[Json, list[Piece]]:
    """Give the texts of every series of images, and headers and pixels by turns."""
    attributes: list[list[str]] = []
    arrays: list[Piece] = []

    def visit(name: str, node: Any) -> None:
        if _is_series(node):
            data = dataset(node, "data")[()]
            for plain, stored in _COMPLEX.items():
                if data.dtype == stored:
                    data = data.view(plain)
            texts = dataset(node, "attributes")[()]
            attributes.append([t if isinstance(t, str) else bytes(t).decode() for t in texts])
            headers = _headers(dataset(node, "header")[()], IMAGE_HEADER)
            arrays.extend([_bytes(headers), data])

    file.visititems(visit)
    return {"attributes": attributes}, arrays


def _line_headers(stored: NDArray[np.void]) -> NDArray[np.void]:
    return _headers(stored, _FILE_HEADER).view(ACQUISITION_HEADER)


def _headers(stored: NDArray[np.void], wanted: np.dtype[Any]) -> NDArray[np.void]:
    if not _same_fields(stored.dtype, wanted):
        raise ProtocolError(
            f"the file's headers have fields {stored.dtype.names}, expected {wanted.names}: "
            "it was written by another version of MRD"
        )
    headers = np.zeros(stored.shape, wanted)  # zeros, because padding is not copied
    headers[...] = stored
    return headers


def _same_fields(a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    # Sizes and order must agree; padding between the fields may differ.
    return a.names == b.names and all(
        _same_fields(a[name], b[name]) if b[name].names else a[name] == b[name]
        for name in b.names or ()
    )


def _numbers(stored: NDArray[Any], kind: np.dtype[Any]) -> NDArray[np.float32]:
    """Return a row's numbers, which some writers store as doubles or big-endian.

    h5py gives those of variable length in the machine's order, whatever the file's.
    """
    base = h5py.check_vlen_dtype(kind)
    if base is not None and base.byteorder == ">":
        stored = stored.view(base)
    return np.asarray(stored, "<f4")


def _sized(what: str, values: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    if values.size != shape[0] * shape[1]:
        raise ProtocolError(
            f"{what}: the header says {shape[0]} x {shape[1]} values, the file has {values.size}"
        )
    return values.reshape(shape)


def _acquisition(
    i: int, header: np.void, data: NDArray[np.float32], trajectory: NDArray[np.float32]
) -> Acquisition:
    samples, dimensions = int(header["number_of_samples"]), int(header["trajectory_dimensions"])
    shape = int(header["active_channels"]), samples
    paired = data[: data.size // 2 * 2].view(np.complex64)
    return Acquisition(
        header=header,
        data=_sized(f"acquisition {i}", paired, shape),
        trajectory=(
            _sized(f"trajectory {i}", trajectory, (samples, dimensions)) if dimensions else None
        ),
    )


def _waveform(i: int, header: np.void, data: NDArray[np.uint32]) -> Waveform:
    shape = int(header["channels"]), int(header["number_of_samples"])
    return Waveform(header=header, data=_sized(f"waveform {i}", data, shape))


def _acquisition_row(item: Acquisition) -> tuple[Any, ...]:
    header = np.frombuffer(item.header.tobytes(), _FILE_HEADER)[0]
    data = np.ascontiguousarray(item.data, np.complex64).reshape(-1).view(np.float32)
    trajectory = np.zeros(0, np.float32) if item.trajectory is None else item.trajectory
    return header, np.ravel(trajectory), data


def _waveform_row(item: Waveform) -> tuple[Any, ...]:
    return item.header, np.ravel(item.data)


def _append(
    group: h5py.Group, name: str, dtype: np.dtype[Any], rows: Iterator[tuple[Any, ...]]
) -> None:
    while block := list(islice(rows, _BLOCK)):
        table = np.empty(len(block), dtype)
        for i, row in enumerate(block):
            table[i] = row
        if name not in group:
            group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(_BLOCK,))
        stored = group[name]
        stored.resize(len(stored) + len(table), axis=0)
        stored[-len(table) :] = table


def _write_series(group: h5py.Group, images: list[Image]) -> None:
    data = np.stack([image.data for image in images])
    headers = np.stack([image.header for image in images])
    metas = [meta_to_xml(image.meta) for image in images]
    headers["attribute_string_len"] = [len(meta) for meta in metas]
    # C++ names the parts of a complex number in full, h5py does not.
    group["data"] = data.view(_COMPLEX[data.dtype]) if data.dtype.kind == "c" else data
    group["header"] = headers
    group.create_dataset("attributes", (len(metas),), _TEXT)[:] = metas
