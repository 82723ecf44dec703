"""Two parts of a scan as the one that a live sequence would have measured.

Every slice has its calibration first, then the chosen lines. The header carries the hello that the
masks answer, so that a replay asks the host for the same masks again, and says whether it gave
them.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import ConfigError, IncompleteError
from ..files.source import Source
from ..mask.mask_file import MaskFile
from ..mask.messages import PLAN, as_record
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import Flag
from ..mrd.header_xml import with_user_parameter
from ..mrd.items import Acquisition
from .plan import counters_of, echo_train, hello_of, lines_by_slice

log = logging.getLogger(__name__)
_SAME = (
    "encoded",
    "recon",
    "encoded_fov",
    "recon_fov",
    "ky_min",
    "ky_max",
    "center",
    "n_slices",
    "n_coils",
)
_PLACE = ("position", "read_dir", "phase_dir", "slice_dir")
_NOISIER = 1.1  # a receiver whose gain has changed makes two scans of different strength


def merge(first: Source, second: Source, masks: MaskFile | None = None) -> Source:
    """Return one scan of two; with `masks`, only if the second measured what they say.

    Raises
    ------
    ConfigError
        If the two are not of one protocol, or lines are not those of the masks; it says which.
    IncompleteError
        If slices lack lines, or the first scan is no calibration.
    """
    _check_protocol(first.geometry, second.geometry)
    before, after = (lines_by_slice(source.acquisitions) for source in (first, second))
    _check_lines(before, after)
    if masks is not None:
        _check_masks(before, after, masks)
        hello = masks.hello
    else:
        n_lines = len(before[0]) + len(after[0])
        hello = hello_of(first, n_lines=n_lines, train=echo_train(first))
    _check_gain(first.acquisitions, second.acquisitions)
    noise = [a for a in first.acquisitions if int(a.header["flags"]) & Flag.NOISE]
    calibration = set(hello.calibration)
    lines = list(noise)
    for number in before:
        lines += _marked([*before[number], *after[number]], calibration)
    record = as_record(hello)
    return replace(
        first,
        header=with_user_parameter(first.header, PLAN, json.dumps(record)),
        acquisitions=_numbered(lines),
        waveforms=(),
    )


def _check_protocol(first: Geometry, second: Geometry) -> None:
    for name in _SAME:
        one, other = getattr(first, name), getattr(second, name)
        if one != other and not np.allclose(one, other, rtol=1e-4):
            raise ConfigError(f"the two scans differ in {name}: {one} and {other}")


def _check_lines(first: dict[int, list[Acquisition]], second: dict[int, list[Acquisition]]) -> None:
    if list(first) != list(second):
        raise IncompleteError(
            f"slices {list(first)} in the first scan, {list(second)} in the other"
        )
    sizes = {len(first[n]) + len(second[n]) for n in first}
    if len(sizes) != 1:
        raise IncompleteError(f"slices have {sorted(sizes)} lines, expected the same in all")
    for number in first:
        both = counters_of([*first[number], *second[number]])
        twice = sorted({c for c in both if both.count(c) > 1})
        if twice:
            raise ConfigError(f"slice {number} has lines {twice[:5]} in both scans")
        one, other = first[number][0], second[number][0]
        if one.data.shape != other.data.shape:
            raise ConfigError(
                f"slice {number} has lines of {one.data.shape} coils and samples in the first "
                f"scan, {other.data.shape} in the other"
            )
        for name in _PLACE:
            if not np.allclose(one.header[name], other.header[name], atol=1e-3):
                raise ConfigError(
                    f"slice {number} has {name} {one.header[name]} in the first scan, "
                    f"{other.header[name]} in the other: it was moved, or slices are in another "
                    "order"
                )


def _check_masks(
    first: dict[int, list[Acquisition]], second: dict[int, list[Acquisition]], masks: MaskFile
) -> None:
    for one in masks.slices:
        got = counters_of([*first.get(one.slice, []), *second.get(one.slice, [])])
        missing = sorted(set(one.counters) - set(got))
        extra = sorted(set(got) - set(one.counters))
        if missing or extra:
            raise ConfigError(
                f"slice {one.slice}: lines {missing[:5]} of its mask are missing, {extra[:5]} are "
                "none of it: these scans and masks do not belong together"
            )


def _check_gain(first: Sequence[Acquisition], second: Sequence[Acquisition]) -> None:
    """Warn where the noise of two scans differs, which their receivers' gains then do too."""
    one, other = (_noise(lines) for lines in (first, second))
    if one is None or other is None:
        return
    ratio = other / one
    if not 1 / _NOISIER < ratio < _NOISIER:
        log.warning(
            "the noise of the second scan is %.2f times that of the first: measure both with the "
            "same receiver gain, or images will have ghosts",
            ratio,
        )


def _noise(lines: Sequence[Acquisition]) -> float | None:
    readouts = [line.data for line in lines if int(line.header["flags"]) & Flag.NOISE]
    return float(np.std(np.concatenate(readouts, axis=1))) if readouts else None


def _marked(lines: list[Acquisition], calibration: set[int]) -> list[Acquisition]:
    """Mark one slice's lines as a live sequence does."""
    found = []
    for i, line in enumerate(lines):
        header = line.header.copy()
        flags = Flag.FIRST_IN_SLICE * (i == 0) | Flag.LAST_IN_SLICE * (i == len(lines) - 1)
        if int(header["kspace_encode_step_1"]) in calibration:
            flags |= Flag.MASK_CALIBRATION
        header["flags"] = flags | int(header["flags"]) & Flag.REVERSE
        found.append(replace(line, header=header))
    return found


def _numbered(lines: list[Acquisition]) -> list[Acquisition]:
    found = []
    for i, line in enumerate(lines):
        header = line.header.copy()
        header["scan_counter"] = i
        if i == len(lines) - 1:
            header["flags"] = int(header["flags"]) | Flag.LAST_IN_MEASUREMENT
        found.append(replace(line, header=header))
    return found
