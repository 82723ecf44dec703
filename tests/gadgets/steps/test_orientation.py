"""Is every feature of an asymmetric phantom where the image's header and attributes say?

What comes back of the phantom (`helpers/oriented_phantom.py`) is put in space by nibabel and
DICOM's rules, by none of our own geometry. Signal is the integral of rho(r) exp(-2 pi i k r), k
along read_dir and phase_dir from the slice's position, as Gadgetron has it.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine

from gadgets.host.child_host import Address
from gadgets.mrd.items import Acquisition, Image
from tests.gadgets.helpers.oriented_phantom import (
    AMPLITUDES,
    CENTRE,
    ENCODINGS,
    FOV,
    FOV_Y,
    MATRIX,
    PLACES,
    PLANES,
    SPACING,
    TOLERANCE,
    Slices,
    images,
    peaks,
)

with warnings.catch_warnings():  # nibabel calls its DICOM readers experimental
    warnings.simplefilter("ignore")
    from nibabel.nicom.dicomwrappers import Wrapper


def dicom(image: Image) -> Wrapper:
    """Describe an image in DICOM's terms, from its header and attributes alone.

    MRD's position is the centre, which a discrete Fourier transform puts at pixel n // 2; DICOM's
    is the first pixel. PixelSpacing is between rows, then between columns.
    """
    nx, ny = (int(n) for n in image.header["matrix_size"][:2])
    spacing = image.header["field_of_view"][:2].astype(float) / (nx, ny)
    row, column = (
        np.array([float(x) for x in image.meta[name].split("\\")])
        for name in ("ImageRowDir", "ImageColumnDir")
    )
    first = image.header["position"] - nx // 2 * spacing[0] * row - ny // 2 * spacing[1] * column
    return Wrapper(
        {
            "ImagePositionPatient": first.tolist(),
            "ImageOrientationPatient": [*row, *column],
            "PixelSpacing": [spacing[1], spacing[0]],
            "SliceThickness": float(image.header["field_of_view"][2]),
        }
    )


def nifti(stack: list[Image], path: Path) -> nibabel.Nifti1Image:
    """Stack slices as a NIfTI file (row, column, slice) and read it back."""
    wrappers = [dicom(image) for image in stack]
    affine = wrappers[0].affine.copy()
    ends = [np.asarray(one.image_position) for one in (wrappers[0], wrappers[-1])]
    affine[:3, 2] = (ends[1] - ends[0]) / (len(stack) - 1)
    data = np.stack([image.data[0, 0] for image in stack], axis=-1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1, -1, 1, 1]) @ affine), path)  # LPS to RAS
    return nibabel.load(path)


def error_mm(stack: list[Image], folder: Path) -> float:
    """Return how far the worst feature is from its place; they are told apart by amplitude."""
    volume = nifti(stack, folder / "volume.nii")
    found, heights = peaks(np.asarray(volume.dataobj, float))
    if len(found) != len(PLACES) or np.abs(heights / heights[0] - AMPLITUDES).max() > 0.02:
        return np.inf
    expected = PLACES * (-1, -1, 1)  # RAS
    distances = np.linalg.norm(apply_affine(volume.affine, found) - expected, axis=1)
    return float(distances.max())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("plane", PLANES)
def test_features_lie_at_their_patient_coordinates(
    plane: str, encoding: str, address: Address, tmp_path: Path
) -> None:
    stack = images(address, Slices.of(plane, encoding))
    assert all(image.header["matrix_size"].tolist() == [*MATRIX, 1] for image in stack)
    assert all(image.header["field_of_view"].tolist() == [*FOV, SPACING] for image in stack)
    assert error_mm(stack, tmp_path) < TOLERANCE


@pytest.mark.parametrize("config", ["default.xml", "zero_filled.xml"])
def test_other_pipelines_put_features_there_too(
    config: str, address: Address, tmp_path: Path
) -> None:
    stack = images(address, Slices.of("oblique", "read and phase exchanged"), config)
    assert error_mm(stack, tmp_path) < TOLERANCE


@pytest.mark.parametrize(
    ("plane", "codes"), [("axial", "PLS"), ("coronal", "ILP"), ("sagittal", "IPR")]
)
def test_rows_columns_and_slices_count_towards_the_sides_of_the_body_that_were_scanned(
    plane: str, codes: str, address: Address, tmp_path: Path
) -> None:
    stack = images(address, Slices.of(plane, "as drawn"))
    volume = nifti(stack, tmp_path / "volume.nii")
    assert "".join(nibabel.aff2axcodes(volume.affine)) == codes


def with_head(image: Image, **fields: Any) -> Image:
    header = image.header.copy()
    for name, value in fields.items():
        header[name] = value
    return replace(image, header=header)


def half_a_pixel(image: Image, axis: int) -> Image:
    step = 0.5 * FOV[axis] / MATRIX[axis] * image.header[("read_dir", "phase_dir")[axis]]
    return with_head(image, position=image.header["position"] + step)


def exchanged(image: Image) -> Image:
    row, column = image.meta["ImageRowDir"], image.meta["ImageColumnDir"]
    return replace(image, meta={"ImageRowDir": column, "ImageColumnDir": row})


WRONG = {
    "x mirrored": lambda image: replace(image, data=image.data[..., ::-1]),
    "x mirrored about the centre's pixel": lambda image: replace(
        image, data=np.roll(image.data[..., ::-1], 1, axis=-1)
    ),
    "y mirrored": lambda image: replace(image, data=image.data[..., ::-1, :]),
    "turned by half a circle": lambda image: replace(image, data=image.data[..., ::-1, ::-1]),
    "shifted by half a pixel along x": lambda image: half_a_pixel(image, 0),
    "shifted by half a pixel along y": lambda image: half_a_pixel(image, 1),
    "directions exchanged": exchanged,
    "field of view exchanged": lambda image: with_head(
        image, field_of_view=(FOV[1], FOV[0], SPACING)
    ),
    "field of view as encoded": lambda image: with_head(
        image, field_of_view=(FOV[0], FOV_Y, SPACING)
    ),
    "slices from the other end": lambda image: with_head(
        image, position=2 * CENTRE - image.header["position"]
    ),
    "at the isocentre": lambda image: with_head(image, position=image.header["position"] - CENTRE),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("plane", ["axial", "oblique"])
def test_the_check_sees_what_lands_wrong(
    plane: str, wrong: str, address: Address, tmp_path: Path
) -> None:
    stack = images(address, Slices.of(plane, "as drawn"))
    assert error_mm([WRONG[wrong](image) for image in stack], tmp_path) > 9 * TOLERANCE


@pytest.mark.parametrize("axis", ["read_dir", "phase_dir"])
def test_the_check_sees_lines_that_were_encoded_the_other_way(
    axis: str, address: Address, tmp_path: Path
) -> None:
    def turned(line: Acquisition) -> Acquisition:
        header = line.header.copy()
        header[axis] *= -1
        return replace(line, header=header)

    slices = Slices.of("oblique", "as drawn")
    stack = images(address, slices, change=turned)
    assert error_mm(stack, tmp_path) > 9 * TOLERANCE
