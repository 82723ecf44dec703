"""Multi-coil hybrid k-space from magnitude images, as scanners send it.

A magnitude image has no phase and no coils, and teaches a sampler the wrong thing: its k-space is
Hermitian. So the simulation adds phase, coils, noise that is white after whitening, objects off the
middle or larger than the field of view, partial echoes, and edges of k-space that the scanner does
not measure. How often, and how strong, follows real scans: see `training.data.statistics`.
Everything follows from the generator that is passed in.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mnet.masks.line_plan import Bool
from mnet.physics.fourier import fourier, inverse_fourier
from training.data.coil_arrays import draw_array
from training.data.denoise import denoised, faded
from training.data.images import (
    LEAST_FILL,
    Volume,
    random_contrast,
    random_slice,
    random_view,
    texture,
    without_air,
)
from training.data.object_phase import object_phase

# whitened noise of the mean brightness: real heads have 0.0005 to 0.06, low field and one channel
# up to 0.2
QUIET, USUAL, LOUD = 0.0005, 0.06, 0.2
# share of scans whose object is drawn to overflow the field of view; one coil has no maps to fail
FOLDED, FOLDED_ONE_COIL = 0.08, 0.3
TEXTURED = 0.5  # share of scans with fine structure of low contrast
PARTIAL_ECHO = 0.04
MEASURED = 0.3  # share of scans whose smooth phase is of a measured image, where there are any
SMALLEST = 64  # rows
COILS = (1, 2, 4, 8, 12, 16, 20, 32, 64)
COIL_SHARES = (0.1, 0.08, 0.14, 0.2, 0.14, 0.16, 0.07, 0.07, 0.04)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The matrix of a scan and its coils."""

    n_x: int
    n_ky: int
    n_coils: int  # of the array; large ones are compressed
    edges: bool = True  # whether the scanner may leave out the edges of k-space


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a scan is, by which tables may be split."""

    n_coils: int  # of the array, before compression
    layout: str  # of the array: around, surface, volume
    folded: bool  # more than a hundredth of the signal comes from outside the field of view


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedScan:
    """One simulated slice, whitened: every sample carries complex noise of variance noise^2."""

    signal: Tensor  # (coils, x, ky) complex64 hybrid k-space without noise, 0 if not acquirable
    # (coils, x, y) complex64, the true maps: unit norm, 0 outside the object. Of a folded scan
    # there is no one truth: these are the maps of what lies inside the field of view.
    csm: Tensor
    noise: float
    acquirable: Bool  # (ky,)
    echo: Bool  # (kx,), samples of the readout that are measured
    drawn: Drawn

    def measure(self, rng: np.random.Generator) -> Tensor:
        """Return one noisy measurement of all acquirable lines, (coils, x, ky)."""
        noise = rng.standard_normal((*self.signal.shape, 2), dtype=np.float32)
        noise *= self.noise / np.sqrt(2) * self.acquirable[:, None]
        return self.signal + read_out(torch.view_as_complex(torch.from_numpy(noise)), self.echo)


def draw_size(
    rng: np.random.Generator,
    reference: int = 160,
    largest: int = 384,
    share: float = 0.4,
    coils: tuple[int, ...] = (),
) -> Size:
    """Draw a matrix: a share has `reference` rows, all measured, the others are of any size.

    From SMALLEST (or the reference, where that is smaller) to `largest`, as many per octave. Arrays
    are of the sizes `coils`, or of all usual ones.
    """
    n_coils = int(rng.choice(coils) if coils else rng.choice(COILS, p=COIL_SHARES))
    smallest = min(SMALLEST, reference)
    edges = bool(rng.random() >= share)
    n_ky = round(np.exp(rng.uniform(np.log(smallest), np.log(largest)))) if edges else reference
    n_x = int(np.clip(n_ky * rng.uniform(0.8, 1.25), smallest, largest))
    return Size(n_x=n_x, n_ky=n_ky, n_coils=n_coils, edges=edges)


def draw_noise(n_coils: int, rng: np.random.Generator) -> float:
    """Draw the noise of the mean brightness; a single channel is louder more often."""
    loud = rng.random() < (0.4 if n_coils == 1 else 0.1)
    low, high = (USUAL, LOUD) if loud else (QUIET, USUAL)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def simulate(volumes: list[Volume], size: Size, rng: np.random.Generator) -> SimulatedScan:
    """Simulate a scan of a random view of a random slice."""
    canvas = draw_canvas(size, rng)
    # complex volumes are noisy single coils: they lend a phase, and are shown where nothing else is
    image, pixels = random_slice([v for v in volumes if v.phase is None] or volumes, rng)
    image = faded(random_contrast(without_air(denoised(image)), rng), rng)
    least = LEAST_FILL if canvas == (size.n_x, size.n_ky) else 0.8  # or it would not overflow
    view = random_view(image, pixels, canvas, rng, least_fill=least)
    magnitude, middle = moved(view.clamp_min(0), rng)
    magnitude = magnitude * transmitted(canvas, middle, rng)
    if rng.random() < TEXTURED:
        magnitude = magnitude * texture(canvas, rng)
    coils, layout = draw_array(size.n_coils, magnitude, rng, middle)
    measured = random_phase(volumes, rng) if rng.random() < MEASURED else None
    phase = object_phase(magnitude, rng, (size.n_x, size.n_ky), measured)
    coils = _central(coils, size.n_x, 1)
    coil_images = coils * _central(torch.polar(magnitude, phase), size.n_x, 0)
    inner = _central(coil_images, size.n_ky, 2)
    outside = 1 - inner.abs().square().sum() / coil_images.abs().square().sum()
    echo = draw_echo(size.n_x, rng)
    coil_images = read_out(folded(coil_images, size.n_ky), echo)
    inside, brightness = _inside(coil_images)
    acquirable = draw_acquirable(size.n_ky, rng) if size.edges else np.ones(size.n_ky, dtype=bool)
    csm = _central(coils, size.n_ky, 2)
    return SimulatedScan(
        signal=fourier(coil_images / brightness, dim=-1) * torch.from_numpy(acquirable),
        csm=csm / csm.abs().square().sum(0).sqrt().clamp_min(1e-12) * inside,
        noise=draw_noise(size.n_coils, rng),
        acquirable=acquirable,
        echo=echo,
        drawn=Drawn(n_coils=size.n_coils, layout=layout, folded=bool(outside > 0.01)),
    )


def draw_canvas(size: Size, rng: np.random.Generator) -> tuple[int, int]:
    """Draw the pixels (x, y) that hold the object: those of the scan, or more where it overflows.

    Along the readout too, where the receiver's filter cuts it, as pixels are nearly square.
    """
    if rng.random() >= (FOLDED_ONE_COIL if size.n_coils == 1 else FOLDED):
        return size.n_x, size.n_ky
    larger = rng.uniform(1.25, 1.6)
    return round(max(size.n_x, size.n_ky) * larger / 1.25), round(size.n_ky * larger)


def _central(images: Tensor, n: int, dim: int) -> Tensor:
    """Cut the central `n` pixels out of a dimension; pixel n // 2 is the middle."""
    return images.narrow(dim, images.shape[dim] // 2 - n // 2, n)


def _inside(coil_images: Tensor) -> tuple[Tensor, float]:
    """Mark the object (x, y), and return its mean brightness."""
    combined = coil_images.abs().square().sum(0).sqrt()
    local = functional.avg_pool2d(combined[None, None], 5, stride=1, padding=2)[0, 0]
    inside = local > 0.02 * combined.max()
    return inside, float(combined[inside].mean())


def moved(magnitude: Tensor, rng: np.random.Generator) -> tuple[Tensor, tuple[float, float]]:
    """Move an object (x, y) within its field of view, in a third of the scans as far as it goes.

    Also returns where its middle has moved to, in halves of the field of view.
    """
    reach = 1.0 if rng.random() < 1 / 3 else 0.2
    middle = []
    for dim, n in enumerate(magnitude.shape):
        filled = torch.nonzero(magnitude.amax(1 - dim) > 0.02 * magnitude.max()).flatten()
        low, high = -int(filled[0]), n - 1 - int(filled[-1])
        step = round(reach * rng.uniform(low, high))
        magnitude = magnitude.roll(step, dim)
        middle.append(2 * step / n)
    return magnitude, (middle[0], middle[1])


def transmitted(
    shape: tuple[int, int], middle: tuple[float, float], rng: np.random.Generator
) -> Tensor:
    """Return the brightness (x, y) that the transmit field gives: at high field most in the middle.

    It falls off as exp(-a r^2), r in halves of the field of view.
    """
    x = torch.linspace(-1, 1, shape[0])[:, None] - middle[0]
    y = torch.linspace(-1, 1, shape[1]) - middle[1]
    return torch.exp(-float(rng.uniform(-0.1, 0.8)) * (x**2 + y**2))


def random_phase(volumes: list[Volume], rng: np.random.Generator) -> Tensor | None:
    """Draw a slice of a measured complex volume (rows, columns); None where none has a phase."""
    measured = [(v.data, v.phase) for v in volumes if v.phase is not None]
    if not measured:
        return None
    data, phase = (np.asarray(part) for part in measured[rng.integers(len(measured))])
    data, phase = (part.reshape(-1, *part.shape[-2:]) for part in (data, phase))
    bright = data.mean(axis=(1, 2))
    number = rng.choice(np.flatnonzero(bright > 0.5 * bright.max()))  # not one of air
    image = torch.from_numpy(data[number] * phase[number]).to(torch.complex64)
    return image.flip([axis for axis in (0, 1) if rng.random() < 0.5])


def folded(coil_images: Tensor, n_ky: int) -> Tensor:
    """Fold images (..., y) of a larger field of view into `n_ky` pixels, as sampling ky does."""
    n_wide = coil_images.shape[-1]
    if n_wide == n_ky:
        return coil_images
    place = (torch.arange(n_wide) - n_wide // 2 + n_ky // 2) % n_ky
    return coil_images.new_zeros((*coil_images.shape[:-1], n_ky)).index_add_(-1, place, coil_images)


def draw_echo(n_x: int, rng: np.random.Generator) -> Bool:
    """Mark the samples of the readout that are measured: all, or few before the echo."""
    echo = np.ones(n_x, dtype=bool)
    if rng.random() < PARTIAL_ECHO:
        echo[: round(n_x * rng.uniform(0.1, 0.35))] = False
    return echo


def read_out(hybrid: Tensor, echo: Bool) -> Tensor:
    """Set samples of the readout that are not measured to zero, in hybrid space (..., x, y)."""
    if echo.all():
        return hybrid
    kspace = fourier(hybrid, dim=-2) * torch.from_numpy(echo)[:, None]
    return inverse_fourier(kspace, dim=-2)


def draw_acquirable(n_ky: int, rng: np.random.Generator) -> Bool:
    """Mark the measurable rows: all, or in 3 of 10 scans about 87 % around the centre."""
    acquirable = np.ones(n_ky, dtype=bool)
    if rng.random() < 0.3:
        missing = round(n_ky * (1 - rng.uniform(0.78, 0.96)))
        missing = min(missing, max(0, n_ky - SMALLEST))  # fewer rows leave no room to calibrate
        below = int(np.clip(missing // 2 + rng.integers(-1, 2), 0, missing))
        acquirable[:below] = False
        acquirable[n_ky - (missing - below) :] = False
    return acquirable
