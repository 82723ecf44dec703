"""A scan for the demonstration: a head in a receive array, fully sampled.

`gadgets.scanner.demo_head` draws the head. Sensitivities are Biot-Savart fields of loops on a
helmet; noise is white in time and correlated between coils; the readout is oversampled twice, and
as in fastMRI knees the outer rows of the encoded matrix were not measured. It is never used in
training.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files.source import write_mrd
from ..files.tissue_maps import TissueMaps, write_tissues
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import ACQUISITION_HEADER, Flag
from ..mrd.header_xml import header_xml
from ..mrd.items import Acquisition, Bool, Complex
from . import demo_head
from .demo_head import Floats, grid

PIXEL_MM = 0.7
THICKNESS_MM = 4.0
OVERSAMPLING = 2
SNR = 20.0  # mean signal of the head over the noise of the combined, fully sampled image
N_NOISE = 64  # readouts of the noise scan
DWELL_US = 5.0

_SLICES_MM = (-8.0, 52.0)  # lowest and highest slice


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoVolume:
    """A simulated scan, fully sampled where the sequence could measure."""

    kspace: Complex  # (slices, coils, kx, ky), kx oversampled, zero outside `acquirable`
    acquirable: Bool  # (ky,) rows of the encoded matrix
    noise: Complex  # (readouts, coils, kx) without signal
    header: bytes  # MRD header XML
    maps: TissueMaps


def demo_volume(
    n_slices: int = 4,
    n_coils: int = 15,
    n_x: int = 320,
    n_ky: int = 368,
    n_acquirable: int = 322,
    seed: int = 0,
) -> DemoVolume:
    """Simulate axial slices of a head, well apart; x runs from front to back, ky left to right.

    Pixels are 0.7 mm at 320 x 368; other matrices keep the field of view. Equal arguments give
    equal data.

    Raises
    ------
    ConfigError
        If the template is not installed.
    """
    if not 1 <= n_acquirable <= n_ky:
        raise ValueError(f"{n_acquirable} acquirable rows of {n_ky}")
    rng = np.random.default_rng(seed)
    tissues = demo_head.template()
    pixel = (PIXEL_MM * 320 / n_x, PIXEL_MM * 368 / n_ky)
    bend = demo_head.Bend.draw(rng)
    phases = rng.uniform(-1, 1, (n_slices, 6))
    heights = _heights(n_slices)
    heads = [demo_head.anatomy(tissues, z, (n_x, n_ky), pixel, bend) for z in heights]
    images = np.stack([demo_head.draw(head) for head in heads])
    turned = np.exp(1j * np.stack([demo_head.phase(p, (n_x, n_ky)) for p in phases]))
    images = images * turned
    csm = np.stack([_coil_maps(n_coils, z, (n_x, n_ky), pixel) for z in heights])
    inside = np.abs(images) > 0.1
    csm /= np.sqrt((np.abs(csm) ** 2).sum(1)[inside].mean())

    acquirable = np.zeros(n_ky, dtype=bool)
    left = (n_ky - n_acquirable) // 2
    acquirable[left : left + n_acquirable] = True
    mix = _noise_mix(n_coils) * (np.abs(images[inside]).mean() / SNR)
    kspace = _acquire(csm * images[:, None])
    kspace[..., acquirable] += _noise(rng, mix, (n_slices, n_x * OVERSAMPLING, n_acquirable))
    kspace[..., ~acquirable] = 0
    noise = _noise(rng, mix, (N_NOISE, n_x * OVERSAMPLING, 1))[..., 0]
    return DemoVolume(
        kspace=kspace,
        acquirable=acquirable,
        noise=noise,
        header=_header(n_slices, n_coils, (n_x, n_ky), pixel, acquirable),
        maps=TissueMaps(
            tissues=demo_head.TISSUES,
            fractions=np.stack([demo_head.fractions(head) for head in heads]).astype(np.float32),
            coils=(csm * turned[:, None]).astype(np.complex64),
        ),
    )


def write_demo(path: Path, volume: DemoVolume) -> None:
    """Write a simulated scan as MRD HDF5: the noise scan, slice after slice, and its tissues."""
    write_mrd(path, volume.header, _acquisitions(volume))
    write_tissues(path, volume.maps)


def _coil_maps(
    n_coils: int, z: float, shape: tuple[int, int], pixel: tuple[float, float], step: int = 4
) -> NDArray[np.complex128]:
    """Return receive sensitivities (coils, x, y): the transverse field of loops on a helmet.

    Biot-Savart, computed on every `step`-th pixel and interpolated, which such smooth fields allow.
    """
    from scipy.ndimage import map_coordinates

    coarse = (-(-shape[0] // step) + 1, -(-shape[1] // step) + 1)
    front, right = grid(shape, pixel)
    points = np.stack(
        np.broadcast_arrays(
            right[0, 0] + np.arange(coarse[1]) * pixel[1] * step,
            (front[0, 0] - np.arange(coarse[0]) * pixel[0] * step)[:, None],
            z,
        ),
        axis=-1,
    )
    places = np.indices(shape) / step
    csm = np.empty((n_coils, *shape), dtype=np.complex128)
    for i in range(n_coils):
        field = _loop_field(points, i, n_coils)
        for part, target in ((field.real, csm.real), (field.imag, csm.imag)):
            map_coordinates(part, places, order=3, mode="nearest", output=target[i])
    return csm


def _loop_field(
    points: Floats, i: int, n_coils: int, n_segments: int = 32
) -> NDArray[np.complex128]:
    """Return Bx - i By of loop i at points (x, y, 3) in mm, axes right, front, up."""
    theta = i * np.pi * (3 - np.sqrt(5.0))  # the golden angle spreads any number of coils
    height = np.interp(i, [0, max(n_coils - 1, 1)], [-45.0, 90.0])
    normal = np.array([np.cos(theta), np.sin(theta), 0.0])
    along = np.array([-np.sin(theta), np.cos(theta), 0.0])
    middle = np.array([132.0, 145.0, 0.0]) * normal + [0.0, 0.0, height]
    turn = (np.arange(n_segments) * 2 * np.pi / n_segments)[:, None]
    radius = 52.0
    wire = middle + radius * (np.cos(turn) * along + np.sin(turn) * np.array([0.0, 0.0, 1.0]))
    current = -np.sin(turn) * along + np.cos(turn) * np.array([0.0, 0.0, 1.0])
    separation = points[..., None, :] - wire
    distance = np.maximum(np.linalg.norm(separation, axis=-1, keepdims=True), 5.0)
    field = (np.cross(current, separation) / distance**3).sum(-2)
    transverse: NDArray[np.complex128] = field[..., 0] - 1j * field[..., 1]
    return transverse


def _acquire(images: NDArray[np.complex128]) -> Complex:
    """Give the k-space of coil images (..., x, y), air added along x for the oversampling."""
    n_x = images.shape[-2]
    before = OVERSAMPLING * n_x // 2 - n_x // 2
    after = OVERSAMPLING * n_x - n_x - before
    padded = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(before, after), (0, 0)])
    axes = (-2, -1)
    spectrum = np.fft.fftn(np.fft.ifftshift(padded, axes=axes), axes=axes, norm="ortho")
    kspace: Complex = np.fft.fftshift(spectrum, axes=axes).astype(np.complex64)
    return kspace


def _noise_mix(n_coils: int) -> Floats:
    """Return the factor (coils, coils) of a covariance with neighbours correlated by 0.3."""
    index = np.arange(n_coils)
    return np.linalg.cholesky(0.3 ** np.abs(index[:, None] - index))


def _noise(rng: np.random.Generator, mix: Floats, shape: tuple[int, int, int]) -> Complex:
    """Draw noise (first, coils, second, third) of variance |mix|^2."""
    size = (shape[0], mix.shape[0], *shape[1:])
    white = rng.standard_normal((*size, 2), dtype=np.float32).view(np.complex64)[..., 0]
    mixed = np.einsum("dc,scxy->sdxy", mix.astype(np.float32) / np.sqrt(2), white, optimize=True)
    noise: Complex = mixed.astype(np.complex64)
    return noise


def _header(
    n_slices: int,
    n_coils: int,
    shape: tuple[int, int],
    pixel: tuple[float, float],
    acquirable: Bool,
) -> bytes:
    n_x, n_ky = shape
    rows = np.flatnonzero(acquirable)
    n_y = min(round(n_x * pixel[0] / pixel[1]), n_ky)  # a square image
    return header_xml(
        encoded=(n_x * OVERSAMPLING, n_ky, 1),
        encoded_fov=(n_x * OVERSAMPLING * pixel[0], n_ky * pixel[1], THICKNESS_MM),
        recon=(n_x, n_y, 1),
        recon_fov=(n_x * pixel[0], n_y * pixel[1], THICKNESS_MM),
        n_coils=n_coils,
        ky_max=rows.size - 1,
        center=n_ky // 2 - int(rows[0]),
        n_slices=n_slices,
        measurement_id="demo",
        tr_ms=3000.0,
    )


def _acquisitions(volume: DemoVolume) -> list[Acquisition]:
    geometry = Geometry.parse(volume.header)
    n_slices = volume.kspace.shape[0]
    counters = geometry.counter(np.flatnonzero(volume.acquirable))
    noise = _headers(volume, volume.noise.shape[0])
    noise["flags"] = Flag.NOISE
    headers = _headers(volume, n_slices * counters.size).reshape(n_slices, counters.size)
    headers["kspace_encode_step_1"] = counters
    headers["slice"] = np.arange(n_slices)[:, None]
    headers["position"][..., 2] = _heights(n_slices)[:, None]
    headers["flags"][:, 0] |= Flag.FIRST_IN_SLICE
    headers["flags"][:, -1] |= Flag.LAST_IN_SLICE
    headers["flags"][-1, -1] |= Flag.LAST_IN_MEASUREMENT
    lines = volume.kspace[..., volume.acquirable].transpose(0, 3, 1, 2)
    items = [*zip(noise, volume.noise, strict=True)]
    items += zip(headers.reshape(-1), lines.reshape(-1, *lines.shape[2:]), strict=True)
    for i, (header, _) in enumerate(items):
        header["scan_counter"] = i
    return [Acquisition(header=header, data=data) for header, data in items]


def _headers(volume: DemoVolume, n: int) -> NDArray[np.void]:
    _, n_coils, n_samples, _ = volume.kspace.shape
    headers = np.zeros(n, ACQUISITION_HEADER)
    headers["version"] = 1
    headers["number_of_samples"] = n_samples
    headers["center_sample"] = n_samples // 2
    headers["available_channels"] = headers["active_channels"] = n_coils
    headers["sample_time_us"] = DWELL_US
    # patient axes left, back, head: x runs to the back, ky to the patient's right
    headers["read_dir"], headers["phase_dir"], headers["slice_dir"] = (
        (0, 1, 0),
        (-1, 0, 0),
        (0, 0, 1),
    )
    return headers


def _heights(n_slices: int) -> Floats:
    """Return the positions of slices along the body in mm."""
    return np.linspace(*_SLICES_MM, n_slices) if n_slices > 1 else np.array([12.0])
