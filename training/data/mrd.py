"""Fully sampled scans in MRD HDF5 files, slice by slice.

The headers of all lines are read at once and say where each line belongs; the lines themselves are
read when their slice is asked for. Every combination of slice, contrast, phase, repetition and set
is a slice here; averages are averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mnet.masks.line_plan import Bool
from training.data.encoding import Encoding, parse

Complex = NDArray[np.complex64]
_LOOPS = ("repetition", "set", "phase", "contrast", "slice")
_NOT_IMAGING = (
    ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MrdScan:
    """Where the lines of a file belong; `read(i)` gives slice i: (coils, kx, ky) complex64."""

    encoding: Encoding  # acquirable: the rows that the file holds
    n_slices: int
    n_coils: int
    read: Callable[[int], Complex]
    noise: Complex | None  # (coils, samples)


def read_mrd(path: Path) -> MrdScan:
    """Index an MRD file.

    Raises
    ------
    ValueError
        If it holds no imaging lines, or its slices disagree in coils, samples or lines.
    """
    with h5py.File(path, "r") as file:
        xml = np.asarray(file["dataset/xml"][()], object).reshape(-1)[0]
        heads = file["dataset/data"].fields("head")[()]
    encoding = parse(xml)
    imaging = np.flatnonzero(_imaging(heads) & (heads["encoding_space_ref"] == 0))
    if imaging.size == 0:
        raise ValueError("expected lines of an image, got none")
    n_coils = _one(heads["active_channels"][imaging], "coils")
    n_samples = _one(heads["number_of_samples"][imaging], "samples per line")
    rows = heads["idx"]["kspace_encode_step_1"][imaging].astype(int) + encoding.offset
    inside = (rows >= 0) & (rows < encoding.n_ky)
    inside[inside] = encoding.acquirable[rows[inside]]  # what lies outside the limits is not placed
    imaging, rows = imaging[inside], rows[inside]
    loops = np.stack([heads["idx"][name][imaging] for name in _LOOPS], axis=1)
    keys, which = np.unique(loops, axis=0, return_inverse=True)
    measured = np.zeros((len(keys), encoding.n_ky), bool)
    measured[which.reshape(-1), rows] = True
    _same_rows(measured, keys)

    # where the oversampling was removed upstream, lines are as long as the image
    n_kx = encoding.n_kx if n_samples > encoding.n_x else encoding.n_x
    shape = (n_coils, n_kx, encoding.n_ky)

    def read(number: int) -> Complex:
        mine = which.reshape(-1) == number
        return _slice(path, imaging[mine], rows[mine], shape)

    return MrdScan(
        encoding=Encoding(
            n_kx=n_kx,
            n_x=encoding.n_x,
            acquirable=measured[0],
            offset=encoding.offset,
            crop=encoding.crop,
            matrix=encoding.matrix,
        ),
        n_slices=len(keys),
        n_coils=n_coils,
        read=read,
        noise=_noise(path, np.flatnonzero(_flagged(heads, ismrmrd.ACQ_IS_NOISE_MEASUREMENT))),
    )


def _flagged(heads: NDArray[np.void], flag: int) -> Bool:
    flags: Bool = (heads["flags"] & np.uint64(1 << (flag - 1))) != 0  # MRD counts bits from 1
    return flags


def _imaging(heads: NDArray[np.void]) -> Bool:
    other = _flagged(heads, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    other &= ~_flagged(heads, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    for flag in _NOT_IMAGING:
        other |= _flagged(heads, flag)
    return ~other


def _one(values: NDArray[Any], what: str) -> int:
    found = np.unique(values)
    if found.size != 1:
        raise ValueError(f"expected the same number of {what} in every slice, got {found.tolist()}")
    return int(found[0])


def _same_rows(measured: Bool, keys: NDArray[Any]) -> None:
    for rows, key in zip(measured, keys, strict=True):
        if not np.array_equal(rows, measured[0]):
            where = ", ".join(f"{name} {n}" for name, n in zip(_LOOPS, key, strict=True))
            raise ValueError(
                f"expected the same lines in every slice: {where} has {rows.sum()}, the first "
                f"slice {measured[0].sum()}, {(rows != measured[0]).sum()} differ"
            )


def _slice(
    path: Path, numbers: NDArray[Any], rows: NDArray[Any], shape: tuple[int, int, int]
) -> Complex:
    kspace = np.zeros(shape, np.complex64)
    times = np.bincount(rows, minlength=shape[2])
    with ismrmrd.File(path, "r") as file:
        lines = file["dataset"].acquisitions
        for number, row in zip(numbers, rows, strict=True):
            kspace[:, :, row] += _centred(lines[int(number)], shape[1]) / times[row]
    return kspace


def _centred(line: ismrmrd.Acquisition, n: int) -> Complex:
    """Return samples (coils, n): discards and reversal undone, the echo at n // 2."""
    data, centre = line.data, int(line.center_sample)
    pre, post = int(line.discard_pre), int(line.discard_post)
    if centre >= data.shape[-1]:  # some senders leave it at that of the full echo
        centre = data.shape[-1] // 2
    if line.is_flag_set(ismrmrd.ACQ_IS_REVERSE):
        data, centre, pre, post = data[:, ::-1], data.shape[-1] - 1 - centre, post, pre
    data = data[:, pre : data.shape[-1] - post]
    start = n // 2 - (centre - pre)
    kept = data[:, max(-start, 0) : max(n - start, 0)]
    # a reversed even readout overhangs by its one unpaired sample
    if data.shape[-1] - kept.shape[-1] > 1 or kept.shape[-1] == 0:
        raise ValueError(
            f"line {line.scan_counter}: {data.shape[-1]} samples with the echo at {centre - pre} "
            f"do not fit the encoded matrix of {n}"
        )
    full = np.zeros((data.shape[0], n), np.complex64)
    full[:, max(start, 0) : max(start, 0) + kept.shape[-1]] = kept
    return full


def _noise(path: Path, numbers: NDArray[Any]) -> Complex | None:
    if numbers.size == 0:
        return None
    with ismrmrd.File(path, "r") as file:
        lines = file["dataset"].acquisitions
        return np.concatenate([lines[int(number)].data for number in numbers], axis=1)
