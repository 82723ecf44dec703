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
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import ACQUISITION_HEADER, Flag
from ..mrd.header_values import with_values
from ..mrd.header_xml import header_xml
from ..mrd.items import Acquisition, Bool, Complex, Ints, Waveform
from .hdf5 import opened, subject_of
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
    def of(
        cls,
        path: Path,
        file: h5py.File,
        first_axis: FirstAxis,
        values: Mapping[str, str],
    ) -> "FastmriFile":
        """Look at an open file, which holds `/kspace`; ProtocolError where it does not fit.

        `values` replace those of the header that is used.
        """
        coils_last = _coils_last(file)
        shape = _shape(file["kspace"], coils_last)
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
            subject=subject_of(file, path),
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
        with opened(self.path) as file:
            kspace = {
                place: _one(file["kspace"], place, self._coils_last)
                for place in sorted(set(places))
            }
        return [
            Acquisition(header=header, data=kspace[place][:, :, column])
            for header, place, column in zip(headers, places, columns, strict=True)
        ]

    def waveforms(self) -> list[Waveform]:
        """Return none: the layout has no room for them."""
        return []


def _coils_last(file: h5py.File) -> bool:
    """Say whether the header's matrix and coils fit the array only with the coils at its end."""
    stored = file["kspace"]
    if stored.ndim != 4 or "ismrmrd_header" not in file:
        return False
    try:
        geometry = Geometry.parse(bytes(file["ismrmrd_header"][()]))
    except HeaderError:
        return False
    matrix, n_coils = geometry.encoded[:2], geometry.n_coils
    return bool(stored.shape[2:] != matrix and stored.shape[1:] == (*matrix, n_coils))


def _shape(stored: h5py.Dataset, coils_last: bool) -> Shape:
    if stored.ndim not in (3, 4) or stored.dtype.kind != "c" or 0 in stored.shape:
        raise ProtocolError(
            "kspace: expected complex [slice, coil, kx, ky] or [slice, kx, ky], got "
            f"{stored.dtype} {list(stored.shape)}"
        )
    if coils_last:
        n_first, n_x, n_ky, n_coils = stored.shape
        return n_first, n_coils, n_x, n_ky
    n_first, *coils, n_x, n_ky = stored.shape
    return n_first, coils[0] if coils else 1, n_x, n_ky


def _one(stored: h5py.Dataset, place: int, coils_last: bool = False) -> Complex:
    """Read one place of the first axis, (coils, kx, ky)."""
    kspace = np.asarray(stored[place], np.complex64)
    if coils_last:
        return np.ascontiguousarray(kspace.transpose(2, 0, 1))
    return kspace if kspace.ndim == 3 else kspace[None]


def _header(file: h5py.File, shape: Shape, first_axis: FirstAxis) -> tuple[bytes, tuple[str, ...]]:
    """Return the header to use, and what was assumed where the stored one is of no use."""
    loops = {"n_slices": 1, "n_repetitions": 1, f"n_{first_axis}s": shape[0]}
    try:
        xml, stored = _stored_header(file, shape)
    except HeaderError as error:
        note = (
            f"no usable header, {error}: assuming 1 mm per sample and no readout oversampling, and "
            "that all columns were acquired from the first to the last that hold anything"
        )
        return _nominal(file["kspace"], shape, loops), (note,)
    fits = stored.n_coils == shape[1] and all(
        getattr(stored, name) == count for name, count in loops.items()
    )
    return xml if fits else _recounted(stored, shape[1], loops), ()


def _stored_header(file: h5py.File, shape: Shape) -> tuple[bytes, Geometry]:
    if "ismrmrd_header" not in file:
        raise HeaderError("expected /ismrmrd_header, got none")
    xml = without_identity(bytes(file["ismrmrd_header"][()]))
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


def _nominal(stored: h5py.Dataset, shape: Shape, loops: dict[str, int]) -> bytes:
    n_first, n_coils, n_x, n_ky = shape
    hold = np.zeros(n_ky, bool)
    for place in range(n_first):  # a whole scan may not fit into memory
        hold |= _one(stored, place).any(axis=(0, 1))
    filled = np.flatnonzero(hold)
    if filled.size == 0:
        raise ProtocolError("kspace holds nothing but zeros")
    first, last = int(filled[0]), int(filled[-1])  # the zeros outside are padding
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


def _acquired(file: h5py.File, n_ky: int) -> Bool:
    acquired = np.ones(n_ky, bool)
    for name in ("mask_acquired", "mask"):
        if name in file:
            mask: NDArray[Any] = file[name][()]
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
    bits[:n_coils] = 1
    return np.packbits(bits, bitorder="little").view("<u8")
