"""Multi-coil hybrid k-space from magnitude images.

A magnitude image has no phase and no coils, and teaches a sampler the wrong thing: its k-space is
Hermitian. So the simulation adds a smooth object phase, loop coils by the law of Biot and Savart,
noise that is correlated between coils and whitened again, and edges of k-space that the scanner
does not measure. Everything follows from the generator that is passed in.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnet.masks.line_plan import Bool
from mnet.physics import sense
from mnet.physics.fourier import fourier
from training.data.images import Volume, random_contrast, random_slice, random_view, without_air


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The matrix of a scan and its coils."""

    n_x: int
    n_ky: int
    n_coils: int
    edges: bool = True  # whether the scanner may leave out the edges of k-space


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedScan:
    """One simulated slice, whitened: every sample carries complex noise of variance noise^2."""

    signal: Tensor  # (coils, x, ky) complex64 hybrid k-space without noise, 0 if not acquirable
    csm: Tensor  # (coils, x, y) complex64, the true maps: unit norm, 0 outside the object
    noise: float
    acquirable: Bool  # (ky,)

    def measure(self, rng: np.random.Generator) -> Tensor:
        """Return one noisy measurement of all acquirable lines, (coils, x, ky)."""
        noise = rng.standard_normal((*self.signal.shape, 2), dtype=np.float32)
        noise *= self.noise / np.sqrt(2) * self.acquirable[:, None]
        return self.signal + torch.view_as_complex(torch.from_numpy(noise))


def draw_size(
    rng: np.random.Generator, reference: int = 160, largest: int = 256, share: float = 0.4
) -> Size:
    """Draw a matrix: a share has `reference` rows, all measured, the others are of any size.

    No more than `largest`; some have four coils, as older head coils do.
    """
    kind = rng.random()
    if kind < share:
        n_ky, edges = reference, False
        n_coils = int(rng.choice([8, 8, 10, 12, 16]))
    elif kind < share + 0.1:
        n_ky, edges, n_coils = largest, True, 4
    else:
        n_ky, edges = int(rng.integers(round(0.7 * reference), largest + 1)), True
        n_coils = int(rng.choice([4, 6, 8, 8, 10, 12, 16]))
    n_x = int(np.clip(n_ky * rng.uniform(0.8, 1.25), 0.7 * reference, largest))
    return Size(n_x=n_x, n_ky=n_ky, n_coils=n_coils, edges=edges)


def simulate(volumes: list[Volume], size: Size, rng: np.random.Generator) -> SimulatedScan:
    """Simulate a scan of a random view of a random slice."""
    shape = (size.n_x, size.n_ky)
    image, pixels = random_slice(volumes, rng)
    magnitude = random_view(random_contrast(without_air(image), rng), pixels, shape, rng)
    image = torch.polar(magnitude.clamp_min(0), object_phase(shape, rng))
    coils = whitened(coil_maps(size.n_coils, shape, rng), rng)
    strength = coils.abs().square().sum(0).sqrt()
    coil_images = coils * image
    combined = magnitude * strength
    local = functional.avg_pool2d(combined[None, None], 5, stride=1, padding=2)[0, 0]
    inside = local > 0.02 * float(combined.max())
    brightness = float(combined[inside].mean())
    acquirable = draw_acquirable(size.n_ky, rng) if size.edges else np.ones(size.n_ky, dtype=bool)
    signal = fourier(coil_images / brightness, dim=-1) * torch.from_numpy(acquirable)
    return SimulatedScan(
        signal=signal,
        csm=coils / strength.clamp_min(1e-12) * inside,
        noise=float(np.exp(rng.uniform(np.log(0.01), np.log(0.15)))),
        acquirable=acquirable,
    )


def draw_acquirable(n_ky: int, rng: np.random.Generator) -> Bool:
    """Mark the measurable rows: all, or in 3 of 10 scans about 87 % around the centre."""
    acquirable = np.ones(n_ky, dtype=bool)
    if rng.random() < 0.3:
        missing = round(n_ky * (1 - rng.uniform(0.78, 0.96)))
        below = missing // 2 + int(rng.integers(-1, 2))
        acquirable[:below] = False
        acquirable[n_ky - (missing - below) :] = False
    return acquirable


def object_phase(shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Draw a smooth phase (x, y) in radians: a quadratic, and a bumpy field on top."""
    x, y = (torch.linspace(-1, 1, n) for n in shape)
    x, y = x[:, None], y[None, :]
    a = rng.normal(0, 1, 5)
    phase = rng.uniform(-np.pi, np.pi) + a[0] * x + a[1] * y
    phase = phase + 0.7 * (a[2] * x**2 + a[3] * x * y + a[4] * y**2)
    bumps = torch.from_numpy(rng.normal(0, rng.uniform(0, 1), (1, 1, 7, 7)).astype(np.float32))
    smooth = functional.interpolate(bumps, shape, mode="bicubic", align_corners=True)[0, 0]
    return (phase + smooth).float()


def coil_maps(n_coils: int, shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Draw receive fields Bx - i By (coils, x, y) complex64 of loops around the object.

    The loops sit on one or two rings, face inwards and scatter a little. Fields are computed on a
    coarse grid by the law of Biot and Savart and interpolated: they are smooth.
    """
    n_rings = 2 if n_coils > 8 and rng.random() < 0.7 else 1
    aspect = rng.uniform(0.8, 1.25)
    reach = rng.uniform(1.1, 1.6)
    turn = rng.uniform(0, 2 * np.pi)
    fields = []
    for coil in range(n_coils):
        per_ring = -(-n_coils // n_rings)
        angle = turn + 2 * np.pi * (coil // n_rings + 0.5 * (coil % n_rings)) / per_ring
        angle += rng.normal(0, 0.08)
        height = (coil % n_rings - (n_rings - 1) / 2) * 0.8 + rng.normal(0, 0.1)
        radius = float(np.clip(np.pi * reach / per_ring * rng.uniform(0.8, 1.3), 0.3, 1.0))
        middle = np.array([reach * np.cos(angle), aspect * reach * np.sin(angle), height])
        fields.append(loop_field(middle, radius, grid=24))
    coarse = torch.from_numpy(np.stack(fields).astype(np.complex64))
    parts = functional.interpolate(
        torch.view_as_real(coarse).permute(0, 3, 1, 2), shape, mode="bicubic", align_corners=True
    )
    maps = torch.view_as_complex(parts.permute(0, 2, 3, 1).contiguous())
    gains = np.exp(rng.normal(0, 0.2, n_coils) + 1j * rng.uniform(0, 2 * np.pi, n_coils))
    maps = maps * torch.from_numpy(gains.astype(np.complex64))[:, None, None]
    return maps / maps.abs().square().sum(0).mean().sqrt()


def loop_field(
    middle: NDArray[np.float64], radius: float, grid: int, n_segments: int = 24
) -> NDArray[np.complex128]:
    """Return Bx - i By (grid, grid) over [-1, 1]^2 of a loop at `middle` that faces the origin."""
    normal = -middle / np.linalg.norm(middle)
    u = np.cross(normal, [0.0, 0.0, 1.0])
    u /= np.linalg.norm(u)
    v = np.cross(normal, u)
    t = 2 * np.pi * (np.arange(n_segments) + 0.5) / n_segments
    wire = middle + radius * (np.cos(t)[:, None] * u + np.sin(t)[:, None] * v)
    current = -np.sin(t)[:, None] * u + np.cos(t)[:, None] * v
    axis = np.linspace(-1, 1, grid)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack([x, y, np.zeros_like(x)], axis=-1)
    away = points[:, :, None, :] - wire  # (grid, grid, segments, 3)
    distance = np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 0.2)
    field: NDArray[np.float64] = (np.cross(current, away) / distance**3).sum(2)
    return field[..., 0] - 1j * field[..., 1]


def whitened(maps: Tensor, rng: np.random.Generator) -> Tensor:
    """Mix maps (coils, x, y) as whitening does, for neighbours with correlated noise."""
    n = maps.shape[0]
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    apart = np.minimum(apart, n - apart)
    twist = np.exp(1j * rng.uniform(-1, 1, n))
    covariance = rng.uniform(0.0, 0.5) ** np.maximum(apart, 1) * twist[:, None] * twist.conj()
    covariance[np.diag_indices(n)] = rng.uniform(0.7, 1.4, n)
    covariance += 0.05 * np.eye(n)
    values, vectors = np.linalg.eigh(covariance)
    inverse_root = vectors / np.sqrt(np.maximum(values, 0.1)) @ vectors.conj().T
    mixing = torch.from_numpy(inverse_root.astype(np.complex64))
    return torch.einsum("dc,cxy->dxy", mixing, maps)


def reference(kspace: Tensor, csm: Tensor) -> Tensor:
    """Return the fully sampled image (..., x, y) that these maps combine."""
    return sense.adjoint(kspace, csm, kspace.new_ones(kspace.shape[-1]).real)
