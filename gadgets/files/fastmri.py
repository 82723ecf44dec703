"""fastMRI HDF5: a k-space array and, mostly, an MRD header, turned into readouts.

``kspace`` is [slice, coil, kx, ky], or [slice, kx, ky] for one coil, kx the readout; where the
header shows that coils are stored last, [slice, kx, ky, coil] is read as well. The array is
padded with zeros to the encoded matrix, so only columns that the header's limits cover were
acquired; a ky counter is what the scanner counted, not the column. Zbontar et al. 2018,
arXiv:1811.08839.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import HeaderError, ProtocolError
from ..mrd.geometry import LARGEST, Geometry
from ..mrd.header_layouts import ACQUISITION_HEADER, Flag
from ..mrd.header_values import with_values
from ..mrd.header_xml import header_xml
from ..mrd.items import Acquisition, Bool, Complex, Ints, Waveform
from .hdf5 import dataset, has, one_text, subject_of
from .hdf5_process import Json, Piece, read_apart
from .identity import without_identity

log = logging.getLogger(__name__)

FirstAxis = Literal["slice", "repetition"]
Shape = tuple[int, int, int, int]  # first axis, coils, kx, ky

# fastMRI does not keep the dwell time. Only whitening reads it, and there is no noise scan here.
_DWELL_US = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FastmriFile:
    """The readouts of a file, which stay there until they are asked for.

    They go slice after slice, ky counters ascending. The stored header is taken where it fits the
    array, less what it says of the patient; otherwise one is made from the shape, with a nominal
    1 mm per sample and no oversampling, and `assumed` and a warning say so. Columns that
    ``mask_acquired`` or ``mask`` leave out were not acquired and give no readout.
    """

    kind: ClassVar[str] = "fastMRI HDF5"
    path: Path
    header: bytes  # XML
    subject: str  # whose scan it is
    assumed: tuple[str, ...]  # in place of a header
    first_axis: FirstAxis
    _coils_last: bool
    _headers: NDArray[np.void]  # (lines,)

    @classmethod
    def of(cls, path: Path, first_axis: FirstAxis, values: Mapping[str, str]) -> "FastmriFile":
        """Look at a file that holds `/kspace`; ProtocolError, which names it, if it does not fit.

        `values` replace those of the header that is used.
        """
        try:
            return cls._of(path, _Stored.of(path), first_axis, values)
        except ProtocolError as error:
            text = str(error)
            raise ProtocolError(text if str(path) in text else f"{path}: {text}") from error

    @classmethod
    def _of(
        cls, path: Path, file: "_Stored", first_axis: FirstAxis, values: Mapping[str, str]
    ) -> "FastmriFile":
        coils_last = _coils_last(file)
        shape = _shape(file, coils_last)
        if coils_last:
            log.warning("%s: kspace is taken for [slice, kx, ky, coil], as its header says", path)
        header, assumed = _header(file, shape, first_axis)
        header = with_values(header, values) if values else header
        for note in assumed:
            log.warning("%s: %s", path, note)
        geometry = Geometry.parse(header)
        counters = geometry.limit_counters
        acquired = _acquired(file, geometry.n_ky)[geometry.row(counters)]
        return cls(
            path=path,
            header=header,
            subject=file.subject,
            assumed=assumed,
            first_axis=first_axis,
            _coils_last=coils_last,
            _headers=_line_headers(shape, geometry, counters[acquired], first_axis),
        )

    def headers(self) -> NDArray[np.void]:
        """Return all headers (lines,), ACQUISITION_HEADER records in order."""
        return self._headers

    def lines(self, numbers: Ints | None = None) -> list[Acquisition]:
        """Read the lines of some numbers; all lines where none are given.

        Raises ProtocolError where the file is damaged.
        """
        headers = self._headers if numbers is None else self._headers[numbers]
        columns = Geometry.parse(self.header).row(headers["kspace_encode_step_1"])
        places = headers[self.first_axis].tolist()
        wanted = sorted(set(places))
        _, arrays = read_apart(
            self.path, f"{__name__}:images", places=wanted, coils_last=self._coils_last
        )
        kspace = dict(zip(wanted, arrays, strict=True))
        return [
            Acquisition(header=header, data=kspace[place][:, :, column])
            for header, place, column in zip(headers, places, columns, strict=True)
        ]

    def waveforms(self) -> list[Waveform]:
        """Return none: the layout has no room for them."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What a file says before its k-space is read."""

    path: Path
    shape: tuple[int, ...]  # of /kspace
    dtype: str
    kind: str  # of the numbers, as NumPy's dtype.kind
    subject: str
    header: bytes | None
    masks: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, path: Path) -> "_Stored":
        found, (header, *masks) = read_apart(path, f"{__name__}:look")
        return cls(
            path=path,
            shape=tuple(found["shape"]),
            dtype=found["dtype"],
            kind=found["kind"],
            subject=found["subject"],
            header=header.tobytes() or None,
            masks=dict(zip(found["masks"], masks, strict=True)),
        )


def look(file: h5py.File) -> tuple[Json, list[Piece]]:
    """Give what an open file says before its k-space is read: a header, and masks."""
    stored = dataset(file, "kspace")
    names = [name for name in ("mask_acquired", "mask") if has(file, name)]
    header = one_text(file, "ismrmrd_header") if has(file, "ismrmrd_header") else b""
    masks = [np.asarray(dataset(file, name)[()], bool) for name in names]
    said = {
        "shape": list(stored.shape),
        "dtype": str(stored.dtype),
        "kind": stored.dtype.kind,
        "subject": subject_of(file),
        "masks": names,
    }
    return said, [np.frombuffer(header, np.uint8), *masks]


def images(file: h5py.File, places: list[int], coils_last: bool) -> tuple[Json, list[Piece]]:
    """Give some places of the first axis, each (coils, kx, ky)."""
    stored = dataset(file, "kspace")
    return {}, [_one(stored, place, coils_last) for place in places]


def filled(file: h5py.File) -> tuple[Json, list[Piece]]:
    """Mark the columns (ky,) that hold anything."""
    stored = dataset(file, "kspace")
    hold = np.zeros(stored.shape[-1], bool)
    for place in range(stored.shape[0]):  # a whole scan may not fit into memory
        hold |= _one(stored, place).any(axis=(0, 1))
    return {}, [hold]


def _coils_last(file: _Stored) -> bool:
    """Say whether the header's matrix and coils fit the array only with the coils at its end."""
    if len(file.shape) != 4 or file.header is None:
        return False
    try:
        geometry = Geometry.parse(file.header)
    except HeaderError:
        return False
    matrix, n_coils = geometry.encoded[:2], geometry.n_coils
    return bool(file.shape[2:] != matrix and file.shape[1:] == (*matrix, n_coils))


def _shape(file: _Stored, coils_last: bool) -> Shape:
    shape = file.shape
    if len(shape) not in (3, 4) or file.kind != "c" or 0 in shape:
        raise ProtocolError(
            "kspace: expected complex [slice, coil, kx, ky] or [slice, kx, ky], got "
            f"{file.dtype} {list(shape)}"
        )
    if max(shape) > LARGEST:
        raise ProtocolError(
            f"kspace: expected at most {LARGEST} slices, coils, samples and columns, got "
            f"{list(shape)}"
        )
    if coils_last:
        n_first, n_x, n_ky, n_coils = shape
        return n_first, n_coils, n_x, n_ky
    n_first, *coils, n_x, n_ky = shape
    return n_first, coils[0] if coils else 1, n_x, n_ky


def _one(stored: h5py.Dataset, place: int, coils_last: bool = False) -> Complex:
    """Read one place of the first axis, (coils, kx, ky)."""
    kspace = np.asarray(stored[place], np.complex64)
    if coils_last:
        return np.ascontiguousarray(kspace.transpose(2, 0, 1))
    return kspace if kspace.ndim == 3 else kspace[None]


def _header(file: _Stored, shape: Shape, first_axis: FirstAxis) -> tuple[bytes, tuple[str, ...]]:
    """Return the header to use, and what was assumed where the stored one is of no use."""
    loops = {"n_slices": 1, "n_repetitions": 1, f"n_{first_axis}s": shape[0]}
    try:
        xml, stored = _stored_header(file, shape)
    except HeaderError as error:
        note = (
            f"no usable header, {error}: assuming 1 mm per sample and no readout oversampling, and "
            "that all columns were acquired from the first to the last that hold anything"
        )
        return _nominal(file.path, shape, loops), (note,)
    fits = stored.n_coils == shape[1] and all(
        getattr(stored, name) == count for name, count in loops.items()
    )
    return xml if fits else _recounted(stored, shape[1], loops), ()


def _stored_header(file: _Stored, shape: Shape) -> tuple[bytes, Geometry]:
    if file.header is None:
        raise HeaderError("expected /ismrmrd_header, got none")
    xml = without_identity(file.header)
    stored = Geometry.parse(xml)
    if stored.encoded[:2] != shape[2:]:
        raise HeaderError(
            f"expected an encoded matrix as kspace, {shape[2]} x {shape[3]}, got "
            f"{stored.encoded[0]} x {stored.encoded[1]}"
        )
    return xml, stored


def _recounted(stored: Geometry, n_coils: int, loops: dict[str, int]) -> bytes:
    """Keep a stored header's geometry and count coils and loops anew."""
    return header_xml(
        encoded=stored.encoded,
        encoded_fov=stored.encoded_fov,
        recon=stored.recon,
        recon_fov=stored.recon_fov,
        ky_min=stored.ky_min,
        ky_max=stored.ky_max,
        center=stored.center,
        n_coils=n_coils,
        measurement_id=stored.measurement_id,
        tr_ms=stored.tr_ms,
        user=stored.user,
        **loops,
    )


def _nominal(path: Path, shape: Shape, loops: dict[str, int]) -> bytes:
    _, n_coils, n_x, n_ky = shape
    _, (hold,) = read_apart(path, f"{__name__}:filled")
    columns = np.flatnonzero(hold)
    if columns.size == 0:
        raise ProtocolError("kspace holds nothing but zeros")
    first, last = int(columns[0]), int(columns[-1])  # the zeros outside are padding
    if not first <= n_ky // 2 <= last:
        raise ProtocolError(
            f"kspace: expected the centre, column {n_ky // 2}, among the columns that hold "
            f"anything, got {first} to {last}"
        )
    matrix, fov = (n_x, n_ky, 1), (float(n_x), float(n_ky), 1.0)
    return header_xml(
        encoded=matrix,
        encoded_fov=fov,
        recon=matrix,
        recon_fov=fov,
        ky_max=last - first,
        center=n_ky // 2 - first,
        n_coils=n_coils,
        **loops,  # type: ignore[arg-type]
    )


def _acquired(file: _Stored, n_ky: int) -> Bool:
    acquired = np.ones(n_ky, bool)
    for name, mask in file.masks.items():
        if mask.ndim == 0 or mask.shape[-1] != n_ky:
            raise ProtocolError(f"{name}: expected {n_ky} columns, got shape {mask.shape}")
        acquired &= mask.reshape(-1, n_ky).any(axis=0)
    return acquired


def _line_headers(
    shape: Shape, geometry: Geometry, counters: Ints, first_axis: FirstAxis
) -> NDArray[np.void]:
    if counters.size == 0:
        raise ProtocolError("kspace: no column lies within the header's limits and the mask")
    n_first, n_coils, n_x, _ = shape
    headers = np.zeros((n_first, counters.size), ACQUISITION_HEADER)
    headers["version"] = 1
    headers["scan_counter"] = np.arange(headers.size).reshape(headers.shape)
    headers["number_of_samples"] = n_x
    headers["center_sample"] = n_x // 2
    headers["active_channels"] = headers["available_channels"] = n_coils
    headers["channel_mask"] = channel_mask(n_coils)
    headers["sample_time_us"] = _DWELL_US
    headers["read_dir"], headers["phase_dir"], headers["slice_dir"] = np.eye(3)
    headers["kspace_encode_step_1"] = counters
    headers[first_axis] = np.arange(n_first)[:, None]
    headers["flags"][:, 0] |= Flag.FIRST_IN_SLICE
    headers["flags"][:, -1] |= Flag.LAST_IN_SLICE
    headers["flags"][-1, -1] |= Flag.LAST_IN_MEASUREMENT
    if first_axis == "slice":
        offset = np.arange(n_first) - (n_first - 1) / 2
        headers["position"][..., 2] = (offset * geometry.recon_fov[2])[:, None]
    return headers.reshape(-1)


def channel_mask(n_coils: int) -> NDArray[np.uint64]:
    """Set the bits of the first channels, of 1024."""
    bits = np.zeros(16 * 64, np.uint8)
    bits[:n_coils] = 1  # the header has no bits for more
    return np.packbits(bits, bitorder="little").view("<u8")
