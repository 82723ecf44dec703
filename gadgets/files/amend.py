"""What a header leaves out or miscounts, taken from the lines of its file, and said once.

A stream has to believe its header; a file can be looked at first. What is amended are limits that
are absent, averages that are not announced, lines that come several times with equal counters
(echoes, mostly), and an imaging space that is not the first.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, HeaderError
from ..mrd.geometry import Geometry, find, parse, text
from ..mrd.header_layouts import is_imaging
from ..mrd.header_values import (
    LOOPS,
    REPEATS,
    moved_first,
    with_encoding_first,
    with_limits,
    with_values,
)
from ..mrd.items import Acquisition, Bool, Ints, Waveform
from .kspace_file import KspaceFile

log = logging.getLogger(__name__)
_KY = "kspace_encode_step_1"
Headers = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Amended:
    """A file with another header, and line headers that go with it."""

    file: KspaceFile
    header: bytes
    assumed: tuple[str, ...]
    _headers: Headers

    @property
    def kind(self) -> str:
        """What it is."""
        return self.file.kind

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.file.path

    @property
    def subject(self) -> str:
        """Whose scan it is."""
        return self.file.subject

    def headers(self) -> Headers:
        """Return all headers (lines,)."""
        return self._headers

    def lines(self, numbers: Ints | None = None) -> list[Acquisition]:
        """Read the lines of some numbers; all lines where none are given."""
        headers = self._headers if numbers is None else self._headers[numbers]
        pairs = zip(self.file.lines(numbers), headers, strict=True)
        return [replace(line, header=header) for line, header in pairs]

    def waveforms(self) -> list[Waveform]:
        """Read all waveforms."""
        return self.file.waveforms()


def amended(file: KspaceFile, values: Mapping[str, str]) -> KspaceFile:
    """Return a file with `values` in its header, and with what its lines say beyond the header.

    A header that cannot be a scan's stays as it is: whoever parses it says why.

    Raises
    ------
    HeaderError
        If values are given for what is no header, or the lines are of several partitions.
    ConfigError
        If all lines come several times with equal counters and nothing says what for.
    """
    xml = with_values(file.header, values) if values else file.header
    try:
        find(parse(xml), "encoding")
    except HeaderError:
        return file
    headers = file.headers()
    if not _imaging(headers).any():
        return file if xml is file.header else _with(file, xml, headers, [])
    notes: list[str] = []
    xml, headers = _imaging_first(xml, headers, notes)
    headers = _repeats(file.path, xml, headers, values.get(REPEATS), notes)
    n_before = len(notes)
    xml = _limits(file.path, xml, headers, notes)
    if xml is file.header and not notes:
        return file
    for note in notes:
        log.warning("%s: %s", file.path, note)
    return _with(file, xml, headers, [n for n in notes[n_before:] if "no limits" in n])


def _with(file: KspaceFile, xml: bytes, headers: Headers, assumed: list[str]) -> Amended:
    return Amended(file=file, header=xml, assumed=file.assumed + tuple(assumed), _headers=headers)


def _imaging(headers: Headers) -> Bool:
    """Mark the lines of images."""
    return np.array([is_imaging(int(flags)) for flags in headers["flags"]], bool)


def _imaging_first(xml: bytes, headers: Headers, notes: list[str]) -> tuple[bytes, Headers]:
    """Put the encoding space first that has the image lines, where only one of them has any."""
    spaces = parse(xml).findall("encoding")
    used = np.unique(headers["encoding_space_ref"][_imaging(headers)])
    cartesian = [
        number
        for number in used.tolist()
        if number < len(spaces)
        and (text(spaces[number], "trajectory") or "cartesian").lower() == "cartesian"
    ]
    if len(cartesian) != 1 or cartesian == [0]:
        return xml, headers
    notes.append(
        f"the image lines are in encoding space {cartesian[0]}, which is taken as the first"
    )
    headers = headers.copy()
    headers["encoding_space_ref"] = moved_first(headers["encoding_space_ref"], cartesian[0])
    return with_encoding_first(xml, cartesian[0]), headers


def _repeats(
    path: Path, xml: bytes, headers: Headers, given: str | None, notes: list[str]
) -> Headers:
    """Give lines that all come equally often with equal counters a number each."""
    lines = np.flatnonzero(_imaging(headers))
    names = ["encoding_space_ref", _KY, *LOOPS]
    places = np.stack([headers[name][lines] for name in names], axis=1)
    unique, where, counts = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    n = int(counts[0])
    if n == 1 or (counts != n).any():
        return headers
    loops = [given] if given else _announced(xml, headers[lines], n)
    if len(loops) != 1:
        raise ConfigError(
            f"{path}: every line comes {n} times with equal counters, and the header does not say "
            f"what for: --header {REPEATS}=contrast for echoes, or average, repetition, set, phase"
        )
    order = np.argsort(where.reshape(-1), kind="stable")
    headers = headers.copy()
    headers[loops[0]][lines[order]] = np.tile(np.arange(n), len(unique))
    why = "as asked" if given else "as the header announces"
    notes.append(
        f"every line comes {n} times with equal counters: taken for {n} {loops[0]}s, {why}"
    )
    return headers


def _announced(xml: bytes, lines: Headers, n: int) -> list[str]:
    """Return the loops of which the header announces n and the lines know one."""
    found = []
    for name in LOOPS:
        path = f"encoding/encodingLimits/{name}/maximum"
        announced = (text(parse(xml), path) or "0").strip()
        if announced == str(n - 1) and not lines[name].any():
            found.append(name)
    return found


def _limits(path: Path, xml: bytes, headers: Headers, notes: list[str]) -> bytes:
    """Set limits that are absent, and those of loops that count further than announced."""
    image = headers[_imaging(headers) & (headers["encoding_space_ref"] == 0)]
    if not image.size:
        return xml
    if np.unique(image["kspace_encode_step_2"]).size > 1:
        raise HeaderError(
            f"{path}: 3-D encoding is not supported: the lines are of "
            f"{np.unique(image['kspace_encode_step_2']).size} partitions (kspace_encode_step_2)"
        )
    root = parse(xml)
    limits: dict[str, tuple[int, int, int]] = {}
    if root.find("encoding/encodingLimits/kspace_encoding_step_1") is None:
        try:
            n_ky = Geometry.parse(xml).n_ky
        except HeaderError:
            return xml
        first, last = int(image[_KY].min()), int(image[_KY].max())
        center = first + n_ky // 2 if last - first + 1 == n_ky else n_ky // 2
        limits["kspace_encoding_step_1"] = first, last, min(max(center, first), last)
        notes.append(
            f"the header has no limits of ky: taken from the lines, {first} to {last}, with the "
            f"centre at {center}; --header ky_center=COUNTER sets another"
        )
    for name in LOOPS:
        announced = text(root, f"encoding/encodingLimits/{name}/maximum") or "0"
        last = int(image[name].max())
        known = int(announced) if announced.isdecimal() else last  # the header will be refused
        if last > known:
            limits[name] = 0, last, 0
        if last > known and name == "average":
            notes.append(f"the header announces {known + 1} averages, the lines have {last + 1}")
    return with_limits(xml, limits) if limits else xml
