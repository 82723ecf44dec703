"""Files that are not read here, told by their first bytes, and what makes MRD of them."""

import struct
from pathlib import Path

LOOK = 4096  # bytes
_IMAGES = "it holds images and no k-space: there is nothing to convert"
_PHILIPS = "convert it with philips_to_ismrmrd"
# Where in a file, its mark, what it is, what to do.
_MARKS: tuple[tuple[int, bytes, str, str], ...] = (
    (128, b"DICM", "DICOM", _IMAGES),  # behind a preamble
    (344, b"n+1\0", "NIfTI", _IMAGES),
    (344, b"ni1\0", "NIfTI", _IMAGES),
    (4, b"n+2\0", "NIfTI", _IMAGES),
    (
        0,
        b"MATLAB 5.0 MAT-file",
        "a MATLAB file",
        "save k-space with -v7.3, and see fastMRI's layout",
    ),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"# === DATA DESCRIPTION FILE", "Philips raw data", _PHILIPS),
)
_BESIDE = (".lab", ".sin", ".list")  # Philips' .raw and .data have no mark of their own
# A P-file begins with its revision, a float, and has the date of the scan 16 bytes on.
_GE_REVISIONS = (7.0, 40.0)


def foreign(path: Path) -> str:
    """Say what a file of another format is and what to do; "" where it is not known."""
    with path.open("rb") as file:
        start = file.read(LOOK)
    for offset, mark, name, what in _MARKS:
        if start[offset : offset + len(mark)] == mark:
            return f"{path} is {name}: {what}"
    if _is_ge(start):
        return f"{path} is a GE P-file: convert it with ge_to_ismrmrd"
    names = {other.name.lower() for other in path.parent.iterdir()}
    if path.suffix.lower() in (".raw", ".data", *_BESIDE) and any(
        (path.stem + suffix).lower() in names for suffix in _BESIDE
    ):
        return f"{path} is Philips raw data: {_PHILIPS}"
    return ""


def _is_ge(start: bytes) -> bool:
    if len(start) < 26:
        return False
    (revision,) = struct.unpack("<f", start[:4])
    day, month, rest = start[16:18], start[19:21], start[18:19] + start[21:22]
    dated = day.isdigit() and month.isdigit() and rest == b"//"
    return _GE_REVISIONS[0] <= revision <= _GE_REVISIONS[1] and dated
