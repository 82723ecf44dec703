"""Is every feature of an asymmetric phantom where the image's header and attributes say?

The phantom is Gaussians in patient coordinates (L, P, S; mm), which have an exact k-space for any
slice. It goes over the wire as lines do, readout oversampled, ky limits asymmetric and short of
the matrix, the field of view cropped and interpolated, off the isocentre. What comes back is put
in space by nibabel and DICOM's rules, by none of our own geometry. Signal is the integral of
rho(r) exp(-2 pi i k r), k along read_dir and phase_dir from the slice's position, as Gadgetron has
it.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from gadgets.host.child_host import Address
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.items import Acquisition, Image
from gadgets.scanner.client import MrdClient
from tests.gadgets.helpers.synthetic import acquisition

with warnings.catch_warnings():  # nibabel calls its DICOM readers experimental
    warnings.simplefilter("ignore")
    from nibabel.nicom.dicomwrappers import Wrapper

Array = NDArray[np.float64]

CENTRE = np.array([12.0, -23.0, 31.0])  # of the phantom and of the middle slice
SIGMA = 8.0
# Amplitude, and place about the centre: no flip or exchange of axes maps them onto themselves.
AMPLITUDES = np.array([1.0, 0.8, 0.65, 0.5, 0.4])
PLACES = CENTRE + np.array(
    [[21, 5, -13], [-17, 22, 9], [-8, -23, -22], [9, -14, 24], [-26, -17, 18]]
)
COIL = np.array([1.0, 0.7, -0.4]) / 640  # cycles per mm

N_X, FOV_X = 120, 360.0  # as encoded: twice the 60 pixels of 180 mm that are imaged
N_KY, FOV_Y = 64, 192.0  # of which 150 mm are imaged
KY_MAX, KY_CENTRE = 51, 27
MATRIX, FOV = (72, 75), (180.0, 150.0)
N_SLICES, SPACING = 11, 8.0
TOLERANCE = 0.1  # mm; half a pixel is 1 or 1.25

ROTATED = np.array(  # by 25 degrees about S, then by 35 about L: doubly oblique
    [[0.90630779, -0.42261826, 0], [0.34619393, 0.74240388, -0.57357644],
     [0.24240364, 0.51983679, 0.81915204]]
)  # fmt: skip
PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "oblique": (tuple(ROTATED[:, 0]), tuple(ROTATED[:, 1])),
}
ENCODINGS = ("as drawn", "read and phase exchanged", "phase reversed")


@dataclass(frozen=True, kw_only=True)
class Slices:
    """A stack of slices; the directions are orthonormal."""

    read: Array
    phase: Array

    @classmethod
    def of(cls, plane: str, encoding: str) -> "Slices":
        read, phase = (np.array(axis, float) for axis in PLANES[plane])
        if encoding == "read and phase exchanged":
            read, phase = phase, read
        elif encoding == "phase reversed":
            phase = -phase
        return cls(read=read, phase=phase)

    @property
    def normal(self) -> Array:
        return np.cross(self.read, self.phase)

    def position(self, number: int) -> Array:
        return CENTRE + (number - N_SLICES // 2) * SPACING * self.normal


def signal(slices: Slices, position: Array) -> NDArray[np.complex128]:
    """Return (coils, kx, counters) of one thin slice."""
    k_x = (np.arange(N_X) - N_X // 2)[:, None] / FOV_X
    k_y = (np.arange(KY_MAX + 1) - KY_CENTRE) / FOV_Y
    u, v, w = (((PLACES - position) @ axis) for axis in (slices.read, slices.phase, slices.normal))
    weights = AMPLITUDES * np.exp(-(w**2) / (2 * SIGMA**2))

    def modulated(q: Array) -> Any:
        """Give the k-space of the phantom times exp(2 pi i q (r - CENTRE))."""
        x, y = k_x - q @ slices.read, k_y - q @ slices.phase
        spread = np.exp(-2 * (np.pi * SIGMA) ** 2 * (x**2 + y**2))
        waves = [
            a * np.exp(-2j * np.pi * (x * at_u + y * at_v))
            for a, at_u, at_v in zip(weights, u, v, strict=True)
        ]
        return sum(waves) * spread * np.exp(2j * np.pi * q @ (position - CENTRE))

    # Coils cos(a) and sin(a), a linear in space and 45 degrees in the centre: squares sum to one.
    turn = np.exp(0.25j * np.pi)
    plus, minus = turn * modulated(COIL), modulated(-COIL) / turn
    return np.stack([plus + minus, (plus - minus) / 1j]) / 2


def lines(slices: Slices) -> list[Acquisition]:
    rng = np.random.default_rng(0)
    result = []
    for number in range(N_SLICES):
        position = slices.position(number)
        kspace = signal(slices, position)
        kspace += 1e-4 * (rng.normal(size=kspace.shape) + 1j * rng.normal(size=kspace.shape))
        result += [
            acquisition(
                kspace[:, :, counter],
                kspace_encode_step_1=counter,
                slice=number,
                position=position,
                read_dir=slices.read,
                phase_dir=slices.phase,
                slice_dir=slices.normal,
                flags=Flag.LAST_IN_SLICE if counter == KY_MAX else 0,
            )
            for counter in range(KY_MAX + 1)
        ]
    return result


HEADER = header_xml(
    encoded=(N_X, N_KY, 1),
    encoded_fov=(FOV_X, FOV_Y, SPACING),
    recon=(*MATRIX, 1),
    recon_fov=(*FOV, SPACING),
    n_coils=2,
    n_slices=N_SLICES,
    ky_max=KY_MAX,
    center=KY_CENTRE,
)


def images(
    address: Address,
    slices: Slices,
    config: str = "cg_sense.xml",
    change: Callable[[Acquisition], Acquisition] = lambda line: line,
) -> list[Image]:
    """Stream the phantom through a host and return its images by slice."""
    with MrdClient(address.host, address.port) as client:
        client.start(config, HEADER)
        client.send_all(map(change, lines(slices)))
        found = client.finish()
    assert len(found) == N_SLICES
    return sorted(found, key=lambda image: int(image.header["slice"]))


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


def peaks(volume: Array) -> tuple[Array, Array]:
    """Find the maxima (n, 3) between voxels and their heights, the highest first."""
    padded = np.pad(volume, 1)
    high = (padded == maximum_filter(padded, 5)) & (padded > 0.2 * padded.max())
    places, heights = [], []
    for at in np.argwhere(high):
        place, height = at - 1.0, np.log(padded[tuple(at)])
        for axis in range(3):
            step = np.eye(3, dtype=int)[axis]
            below, here, above = (
                np.log(max(padded[tuple(at + k * step)], 1e-9)) for k in (-1, 0, 1)
            )
            curvature = below - 2 * here + above  # a Gaussian's logarithm is a parabola
            place[axis] += (below - above) / (2 * curvature)
            height -= (below - above) ** 2 / (8 * curvature)
        places.append(place)
        heights.append(np.exp(height))
    order = np.argsort(heights)[::-1]
    return np.array(places)[order], np.array(heights)[order]


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
