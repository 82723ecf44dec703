"""An asymmetric phantom whose features have known places in the patient, scanned in any plane.

It is Gaussians in patient coordinates (L, P, S; mm), which have an exact k-space for any slice. It
goes over the wire as lines do, readout oversampled, ky limits asymmetric and short of the matrix,
the field of view cropped and interpolated, off the isocentre.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from gadgets.host.child_host import Address
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.items import Acquisition, Image
from gadgets.scanner.client import MrdClient
from tests.gadgets.helpers.synthetic import acquisition

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
