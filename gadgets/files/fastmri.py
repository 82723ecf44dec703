"""fastMRI HDF5: a k-space array and, mostly, an MRD header, turned into readouts.

``kspace`` is [slice, coil, kx, ky], or [slice, kx, ky] for one coil, kx the readout. The array is
padded with zeros to the encoded matrix, so only columns that the header's limits cover were
acquired; a ky counter is what the scanner counted, not the column.
"""

import logging
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import HeaderError, ProtocolError
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import ACQUISITION_HEADER, Flag
from ..mrd.header_xml import header_xml, without_patient
from ..mrd.items import Acquisition, Bool, Complex, Ints

log = logging.getLogger(__name__)

FirstAxis = Literal["slice", "repetition"]

# fastMRI does not keep the dwell time. Only whitening reads it, and there is no noise scan here.
_DWELL_US = 5.0


def read_fastmri(file: h5py.File, first_axis: FirstAxis) -> tuple[bytes, list[Acquisition]]:
    """Read header and readouts, slice after slice, ky counters ascending.

    The stored header is taken where it fits the array, less what it says of the patient; otherwise
    one is made from the shape, with a nominal 1 mm per sample and no oversampling, and a warning
    says so. Columns that ``mask_acquired`` or ``mask`` leave out were not acquired and give no
    readout.
    """
    kspace = _kspace(file)
    header = _header(file, kspace, first_axis)
    geometry = Geometry.parse(header)
    counters = geometry.limit_counters
    acquired = _acquired(file, geometry.n_ky)[geometry.row(counters)]
    lines = _readouts(kspace, geometry, counters[acquired], first_axis)
    return header, lines


def _kspace(file: h5py.File) -> Complex:
    stored = file["kspace"]
    if stored.ndim not in (3, 4) or stored.dtype.kind != "c" or 0 in stored.shape:
        raise ProtocolError(
            "kspace: expected complex [slice, coil, kx, ky] or [slice, kx, ky], got "
            f"{stored.dtype} {list(stored.shape)}"
        )
    kspace = np.asarray(stored[()], np.complex64)
    return kspace if kspace.ndim == 4 else kspace[:, None]


def _header(file: h5py.File, kspace: Complex, first_axis: FirstAxis) -> bytes:
    n_first, n_coils, n_x, n_ky = kspace.shape
    loops = {"n_slices": 1, "n_repetitions": 1, f"n_{first_axis}s": n_first}
    if "ismrmrd_header" in file:
        try:
            xml = without_patient(bytes(file["ismrmrd_header"][()]))
            stored = Geometry.parse(xml)
        except HeaderError as error:
            log.warning("the stored header is not used: %s", error)
        else:
            if stored.encoded[:2] == (n_x, n_ky):
                fits = stored.n_coils == n_coils and all(
                    getattr(stored, name) == count for name, count in loops.items()
                )
                return xml if fits else _recounted(stored, n_coils, loops)
            log.warning(
                "the stored header is not used: it has an encoded matrix of %d x %d, kspace of "
                "%d x %d",
                *stored.encoded[:2],
                n_x,
                n_ky,
            )
    return _nominal(kspace, loops)


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


def _nominal(kspace: Complex, loops: dict[str, int]) -> bytes:
    _, n_coils, n_x, n_ky = kspace.shape
    log.warning("no usable header: assuming 1 mm per sample and no readout oversampling")
    filled = np.flatnonzero(kspace.any(axis=(0, 1, 2)))
    if filled.size == 0:
        raise ProtocolError("kspace holds nothing but zeros")
    first, last = int(filled[0]), int(filled[-1])  # the zeros outside are padding
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


def _readouts(
    kspace: Complex, geometry: Geometry, counters: Ints, first_axis: FirstAxis
) -> list[Acquisition]:
    if counters.size == 0:
        raise ProtocolError("kspace: no column lies within the header's limits and the mask")
    n_first, n_coils, n_x, _ = kspace.shape
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
    columns = geometry.row(counters)
    return [
        Acquisition(header=headers[i, j], data=kspace[i, :, :, column])
        for i in range(n_first)
        for j, column in enumerate(columns)
    ]


def channel_mask(n_coils: int) -> NDArray[np.uint64]:
    """Set the bits of the first channels, of 1024."""
    bits = np.zeros(16 * 64, np.uint8)
    bits[:n_coils] = 1
    return np.packbits(bits, bitorder="little").view("<u8")
