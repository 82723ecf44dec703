"""What training needs of an MRD header: which rows were measured, and which pixels are the image.

Rows are those of the encoded matrix, k = 0 at n // 2. A header counts lines from its own zero, so
row = counter + matrix_y // 2 - center; its limits may exceed the matrix. The streaming side reads
the same elements to the same numbers.
"""

from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

from mnet.masks.line_plan import Bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoding:
    """The geometry of one Cartesian 2-D scan."""

    n_kx: int  # readout samples, with oversampling
    n_x: int  # pixels along x without it
    acquirable: Bool  # (ky,): within the header's limits
    offset: int  # row = kspace_encode_step_1 + offset
    crop: tuple[int, int]  # pixels (x, y) that the reconstructed field of view keeps
    matrix: tuple[int, int]  # of the final image, over the same field of view

    @property
    def n_ky(self) -> int:
        """Rows of the encoded matrix."""
        return self.acquirable.size


def parse(xml: bytes | str) -> Encoding:
    """Read a header.

    Raises
    ------
    ValueError
        If the text is no MRD header, lacks matrix, field of view or the limits of
        kspace_encoding_step_1, contradicts itself, or is of a 3-D or non-Cartesian scan.
    """
    encoding = _encoding(xml)
    trajectory = (encoding.findtext("trajectory") or "cartesian").strip().lower()
    if trajectory != "cartesian":
        raise ValueError(f"header: expected a cartesian trajectory, got {trajectory!r}")
    n_kx, n_ky, n_z = (round(_number(encoding, f"encodedSpace/matrixSize/{a}")) for a in "xyz")
    if n_z != 1 or min(n_kx, n_ky) < 1:
        raise ValueError(f"header: expected a 2-D encoded matrix, got {n_kx} x {n_ky} x {n_z}")
    shares = [
        _number(encoding, f"reconSpace/fieldOfView_mm/{axis}")
        / max(_number(encoding, f"encodedSpace/fieldOfView_mm/{axis}"), 1e-9)
        for axis in "xy"
    ]
    matrix = tuple(round(_number(encoding, f"reconSpace/matrixSize/{axis}")) for axis in "xy")
    limits = "encodingLimits/kspace_encoding_step_1"
    low, centre, high = (
        round(_number(encoding, f"{limits}/{name}")) for name in ("minimum", "center", "maximum")
    )
    if not 0 <= low <= centre <= high:
        raise ValueError(
            "header: expected 0 <= minimum <= center <= maximum of kspace_encoding_step_1, got "
            f"{low}, {centre}, {high}"
        )
    if min(matrix) < 1 or not all(0 < share <= 1.0001 for share in shares):
        raise ValueError(
            f"header: expected an image within the encoded field of view, got {shares[0]:.4g} of "
            f"it along x, {shares[1]:.4g} along y and {matrix[0]} x {matrix[1]} pixels"
        )
    rows = np.arange(n_ky) - (n_ky // 2 - centre)  # as counters
    n_x = max(round(n_kx * shares[0]), 1)
    return Encoding(
        n_kx=n_kx,
        n_x=n_x,
        acquirable=(low <= rows) & (rows <= high),
        offset=n_ky // 2 - centre,
        crop=(n_x, min(max(round(n_ky * shares[1]), 1), n_ky)),
        matrix=(matrix[0], matrix[1]),
    )


def nominal(n_kx: int, filled: Bool) -> Encoding:
    """Return the geometry of an array without a header, from the rows (ky,) that hold anything.

    No oversampling is assumed. Rows between the first and the last filled one were measured.
    """
    rows = np.flatnonzero(filled)
    if rows.size == 0:
        raise ValueError("kspace holds nothing but zeros")
    acquirable = np.zeros_like(filled)
    acquirable[rows[0] : rows[-1] + 1] = True
    size = (n_kx, filled.size)
    return Encoding(n_kx=n_kx, n_x=n_kx, acquirable=acquirable, offset=0, crop=size, matrix=size)


def _encoding(xml: bytes | str) -> ElementTree.Element:
    """Return the first encoding of a header, which is the imaging one, without namespaces."""
    text = xml.encode() if isinstance(xml, str) else xml
    try:
        root = ElementTree.fromstring(text.rstrip(b"\0"))
    except (ElementTree.ParseError, UnicodeError, LookupError) as error:
        raise ValueError(f"header: expected an MRD header, got no XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    encoding = root.find("encoding")
    if root.tag != "ismrmrdHeader" or encoding is None:
        raise ValueError(f"header: expected <ismrmrdHeader> with an encoding, got <{root.tag}>")
    return encoding


def _number(encoding: ElementTree.Element, path: str) -> float:
    text = encoding.findtext(path)
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"header: expected a number at encoding/{path}, got {text!r}")
    return value
