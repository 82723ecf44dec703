"""Masks of many scans in one file, with the settings that they follow from.

A numpy archive without pickles: the masks one after the other, eight rows to the byte, their scans
and lengths, the settings as JSON with their sha256, and further arrays whose first axis follows the
scans. A file appears whole or not at all, and never takes the place of one with other settings.
"""

import hashlib
import io
import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from mnet.masks.line_plan import Bool

FURTHER = "array."  # before the names of further arrays, which so cannot collide with ours
# what a damaged archive raises, according to the byte that was hit
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskFile:
    """What a mask file holds."""

    masks: dict[int, Bool]  # by scan, (ky,) of each
    settings: dict[str, Any]
    arrays: dict[str, NDArray[Any]]  # (scans, ...), in the order of `masks`
    digest: str  # sha256 of the settings


def canonical(settings: Mapping[str, Any]) -> str:
    """Return settings as the one JSON text that they have."""
    return json.dumps(settings, sort_keys=True, allow_nan=False)


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return the sha256 of settings, whatever the order of their keys."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()


def write_masks(
    path: Path,
    masks: Mapping[int, Bool],
    settings: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]] | None = None,
    *,
    replace: bool = False,
) -> None:
    """Write masks (ky,) of scans, and arrays (scans, ...) in the same order.

    Raises
    ------
    ValueError
        If a mask or an array has another shape or type; or if the file is there already, damaged or
        with other settings, and `replace` is not set.
    """
    content = _content(masks, settings, arrays or {})
    if path.exists() and not replace:
        read_masks(path, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")  # one per writer
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_masks(path: Path, settings: Mapping[str, Any] | None = None) -> MaskFile:
    """Read a mask file; `settings`, where given, must be those it was written with.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged, or names the settings that differ.
    """
    data = path.read_bytes()
    try:
        found = _parse(data)
    except DAMAGE as error:
        raise ValueError(
            f"{path} is not a whole mask file: {error!r}; delete or restore it"
        ) from error
    if settings is not None:
        _check(path, found.settings, json.loads(canonical(settings)))
    return found


def is_written(path: Path, settings: Mapping[str, Any]) -> bool:
    """Say whether a mask file is there; ValueError, as of `read_masks`, if it is another one."""
    if not path.exists():
        return False
    read_masks(path, settings)
    return True


def _content(
    masks: Mapping[int, Bool], settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    for scan, mask in masks.items():
        if mask.ndim != 1 or mask.dtype != np.bool_:
            raise ValueError(f"mask of scan {scan}: {mask.dtype} {mask.shape}, expected bool (ky,)")
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"array {name} holds Python objects, expected numbers or text")
        if array.shape[:1] != (len(masks),):
            raise ValueError(f"array {name}: shape {array.shape}, expected ({len(masks)}, ...)")
    return {
        "scans": np.array(list(masks), dtype=np.int64),
        "lengths": np.array([mask.size for mask in masks.values()], dtype=np.int64),
        "bits": np.packbits(np.concatenate([np.zeros(0, dtype=bool), *masks.values()])),
        "arrays": np.array(list(arrays), dtype=str),
        "settings": np.array(canonical(settings)),
        "sha256": np.array(settings_digest(settings)),
    } | {FURTHER + name: array for name, array in arrays.items()}


def _parse(data: bytes) -> MaskFile:
    # a member is read to its end, where its checksum stands, before any of it is believed
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {
            name.removesuffix(".npy"): np.lib.format.read_array(
                io.BytesIO(archive.read(name)), allow_pickle=False
            )
            for name in archive.namelist()
        }
    settings = json.loads(str(members["settings"]))
    digest = settings_digest(settings)
    if digest != str(members["sha256"]):
        raise ValueError(f"settings have sha256 {digest}, the file says {members['sha256']}")
    scans, lengths = members["scans"], members["lengths"]
    rows = np.unpackbits(members["bits"], count=int(lengths.sum())).astype(bool)
    masks = np.split(rows, np.cumsum(lengths)[:-1]) if scans.size else []
    return MaskFile(
        masks=dict(zip(scans.tolist(), masks, strict=True)),
        settings=settings,
        arrays={name: members[FURTHER + name] for name in members["arrays"].tolist()},
        digest=digest,
    )


def _check(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    def told(settings: Mapping[str, Any], key: str) -> str:
        return repr(settings[key]) if key in settings else "nothing"

    differing = [
        f"{key}: {told(found, key)}, expected {told(expected, key)}"
        for key in sorted(found.keys() | expected.keys())
        if told(found, key) != told(expected, key)
    ]
    if differing:
        raise ValueError(
            f"{path} was made with other settings: {'; '.join(differing)}; "
            "delete it or write elsewhere"
        )
