"""Where the pixels of an MRD image lie in the patient.

MRD gives the position of the middle, in DICOM's patient coordinates: L, P and S (head) grow, in mm.
The middle is pixel (nx // 2, ny // 2), where a discrete Fourier transform puts it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import HeaderError
from ..mrd.items import Image

Floats = NDArray[np.float64]
_UNIT = 1e-3  # by so much, directions that were stored as 32-bit numbers or as text may be off


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One slice in LPS coordinates, mm."""

    first: Floats  # (3,) the centre of pixel (0, 0)
    row: Floats  # (3,) along which x grows
    column: Floats  # (3,) along which y grows
    spacing: tuple[float, float]  # along x, along y
    thickness: float

    @classmethod
    def of(cls, image: Image) -> "Placement":
        """Read the header and, where they are there, the directions of the meta attributes.

        Raises
        ------
        HeaderError
            If there is no field of view, or directions are missing, not of length one or not at
            right angles.
        """
        header = image.header
        nx, ny = image.data.shape[-1], image.data.shape[-2]
        row, column = (
            _direction(image, "ImageRowDir", "read_dir"),
            _direction(image, "ImageColumnDir", "phase_dir"),
        )
        if abs(row @ column) > _UNIT:
            raise HeaderError(
                f"{named(image)}: read_dir {_three(row)} and phase_dir {_three(column)} are not at "
                "right angles"
            )
        fov = np.asarray(header["field_of_view"], np.float64)
        if not (np.isfinite(fov).all() and fov[0] > 0 and fov[1] > 0):
            raise HeaderError(f"{named(image)}: expected a field of view in mm, got {_three(fov)}")
        spacing = float(fov[0]) / nx, float(fov[1]) / ny
        middle = np.asarray(header["position"], np.float64)
        if not np.isfinite(middle).all():
            raise HeaderError(f"{named(image)}: expected a position in mm, got {_three(middle)}")
        return cls(
            first=middle - nx // 2 * spacing[0] * row - ny // 2 * spacing[1] * column,
            row=row,
            column=column,
            spacing=spacing,
            thickness=float(fov[2]),
        )

    @property
    def normal(self) -> Floats:
        """Return the direction (3,) along which DICOM counts slices."""
        return np.cross(self.row, self.column)


def named(image: Image) -> str:
    """Say which image is meant, for messages."""
    header = image.header
    return (
        f"image {int(header['image_index'])} of series {int(header['image_series_index'])} "
        f"(slice {int(header['slice'])})"
    )


def _direction(image: Image, name: str, field: str) -> Floats:
    text = image.meta.get(name, "")
    values = np.asarray(image.header[field], np.float64)
    if text:
        try:
            values = np.array([float(value) for value in text.split("\\")])
        except ValueError:
            raise HeaderError(f"{named(image)}: {name} is {text!r}, expected 3 numbers") from None
    length = float(np.linalg.norm(values)) if np.isfinite(values).all() else 0.0
    if values.shape != (3,) or abs(length - 1) > _UNIT:
        raise HeaderError(
            f"{named(image)}: {field} is {_three(values)}, expected a direction of length 1: "
            "where the image lies in the patient is not known"
        )
    unit: Floats = values / length
    return unit


def _three(values: Floats) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
