"""Fully sampled k-space files: fastMRI multi-coil HDF5 (knee and brain), and MRD HDF5.

`kspace` of fastMRI is [slice, coil, kx, ky] (or [slice, kx, ky] for one coil), padded with zeros to
the encoded matrix; the header's limits say which columns were measured. Volumes are read slice by
slice. Zbontar et al. 2018, arXiv:1811.08839.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnet.masks.line_plan import Bool
from mnet.physics import fov
from mnet.physics.fourier import inverse_fourier
from training.data.encoding import Encoding, nominal, parse
from training.data.mrd import read_mrd

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FastmriVolume:
    """A fully sampled scan on disk."""

    path: Path
    subject: str  # the file's `patient_id`, or its name
    encoding: Encoding
    n_slices: int
    n_coils: int
    read: Callable[[int], NDArray[np.complex64]]  # slice -> (coils, kx, ky) as stored
    noise: Tensor | None = None  # (coils, samples) of a noise scan
    notes: tuple[str, ...] = ()  # what was assumed

    @property
    def acquirable(self) -> Bool:
        """Rows (ky,) that were measured."""
        return self.encoding.acquirable

    @property
    def crop(self) -> tuple[int, int]:
        """Pixels (x, y) of the hybrid matrix that the final image keeps; for `fov.finish`."""
        return self.encoding.crop

    @property
    def matrix(self) -> tuple[int, int]:
        """Pixels (x, y) of the final image over the cropped field of view."""
        return self.encoding.matrix

    def hybrid(self, number: int) -> Tensor:
        """Read one slice: (coils, x, ky) complex64, zero on rows that were not measured.

        Raises
        ------
        ValueError
            If the slice is damaged, not finite, empty, or lacks lines that the volume should have.
        """
        kspace = self.stored(number)
        x = inverse_fourier(torch.from_numpy(kspace), dim=-2)
        return fov.crop(x, -2, self.encoding.n_x).contiguous()

    def stored(self, number: int) -> NDArray[np.complex64]:
        """Read the k-space (coils, kx, ky) of one slice; errors as of `hybrid`."""
        if not 0 <= number < self.n_slices:
            raise ValueError(f"{self.path}: slice {number}, expected 0 to {self.n_slices - 1}")
        with naming(self.path):
            kspace = self.read(number)
            expected = (self.n_coils, self.encoding.n_kx, self.encoding.n_ky)
            if kspace.shape != expected:
                raise ValueError(f"slice {number} has shape {kspace.shape}, expected {expected}")
            if not np.isfinite(kspace).all():
                raise ValueError(f"slice {number}: expected finite values, got NaN or infinity")
            filled = kspace.any(axis=(0, 1))
            missing = np.flatnonzero(self.acquirable & ~filled)
            if missing.size:
                raise ValueError(
                    f"slice {number}: expected all {self.acquirable.sum()} rows within the limits, "
                    f"got only zeros in {missing.size} of them, first row {missing[0]}: not fully "
                    "sampled"
                )
        return np.where(self.acquirable, kspace, np.complex64(0))


def read_volume(path: Path, *, need_header: bool = False) -> FastmriVolume:
    """Open a fastMRI or MRD file, told apart by content; slices are read when asked for.

    Without a usable header the rows that hold anything are taken as measured, no oversampling is
    assumed, and `notes` says so; with `need_header` that is an error.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, neither of the two, of another shape, or not fully sampled.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with naming(path), h5py.File(path, "r") as file:
        subject = str(file.attrs.get("patient_id", path.stem))
        if "dataset/xml" in file and "dataset/data" in file:
            volume = _from_mrd(path, subject)
        elif "kspace" in file:
            volume = _from_fastmri(path, subject, file, need_header)
        else:
            raise ValueError(
                f"expected /kspace (fastMRI) or /dataset/xml and /dataset/data (MRD), "
                f"got {sorted(file)}"
            )
        rows = np.flatnonzero(volume.acquirable)
        if rows.size == 0 or rows[-1] - rows[0] + 1 != rows.size:
            raise ValueError(
                f"expected a fully sampled scan, got {rows.size} rows with gaps between them"
            )
    for note in volume.notes:
        log.warning("%s: %s", path, note)
    return volume


def _from_mrd(path: Path, subject: str) -> FastmriVolume:
    scan = read_mrd(path)
    return FastmriVolume(
        path=path,
        subject=subject,
        encoding=scan.encoding,
        n_slices=scan.n_slices,
        n_coils=scan.n_coils,
        read=scan.read,
        noise=None if scan.noise is None else torch.from_numpy(scan.noise),
    )


def _from_fastmri(path: Path, subject: str, file: h5py.File, need_header: bool) -> FastmriVolume:
    stored = file["kspace"]
    if stored.ndim not in (3, 4) or stored.dtype.kind != "c" or 0 in stored.shape:
        raise ValueError(
            "kspace: expected complex [slice, coil, kx, ky] or [slice, kx, ky], got "
            f"{stored.dtype} {list(stored.shape)}"
        )
    encoding, notes = _encoding(file, stored, need_header)
    encoding = replace(encoding, acquirable=encoding.acquirable & _masked_in(file, encoding.n_ky))

    def read(number: int) -> NDArray[np.complex64]:
        with h5py.File(path, "r") as again:
            kspace = np.asarray(again["kspace"][number], np.complex64)
        return kspace if kspace.ndim == 3 else kspace[None]

    return FastmriVolume(
        path=path,
        subject=subject,
        encoding=encoding,
        n_slices=stored.shape[0],
        n_coils=stored.shape[1] if stored.ndim == 4 else 1,
        read=read,
        notes=notes,
    )


def _encoding(
    file: h5py.File, stored: h5py.Dataset, need_header: bool
) -> tuple[Encoding, tuple[str, ...]]:
    try:
        if "ismrmrd_header" not in file:
            raise ValueError("expected /ismrmrd_header, got none")
        encoding = parse(file["ismrmrd_header"][()])
        if (encoding.n_kx, encoding.n_ky) != stored.shape[-2:]:
            raise ValueError(
                f"header: expected an encoded matrix as kspace, {stored.shape[-2]} x "
                f"{stored.shape[-1]}, got {encoding.n_kx} x {encoding.n_ky}"
            )
    except ValueError as error:
        if need_header:
            raise
        filled = np.zeros(stored.shape[-1], bool)
        for number in range(stored.shape[0]):
            filled |= stored[number].reshape(-1, filled.size).any(axis=0)
        note = "rows that hold anything are taken as measured, without readout oversampling"
        return nominal(stored.shape[-2], filled), (f"{error}; {note}",)
    return encoding, ()


def _masked_in(file: h5py.File, n_ky: int) -> Bool:
    """Return the rows (ky,) that the file's own masks, where it has any, call acquired."""
    rows = np.ones(n_ky, bool)
    for name in ("mask_acquired", "mask"):
        if name in file:
            mask = file[name][()]
            if mask.ndim == 0 or mask.shape[-1] != n_ky:
                raise ValueError(f"{name}: expected {n_ky} columns, got shape {mask.shape}")
            rows &= mask.reshape(-1, n_ky).any(axis=0)
    return rows


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in every ValueError; what h5py raises for damaged files becomes ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    # What h5py was seen to raise for files that are cut, damaged, or no HDF5.
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as HDF5: {error}") from error
