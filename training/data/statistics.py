"""Statistics of k-space by which simulated scans can be told from real ones.

Both kinds are `Sample`s, whitened and with maps from their calibration lines, and are measured
alike: nothing that only a simulation knows is used. Lengths along ky are fractions of the field of
view, brightness is relative to the mean inside the object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnet.physics import sense
from mnet.physics.fourier import inverse_fourier
from training.data.corner_noise import corner_noise
from training.data.corpus import Sample

N_BINS = 12  # of |ky|, from the centre to the outermost measured row
TISSUE = 0.15  # of the bright tissue's smoothed brightness: above it a pixel is tissue
EDGE = 1 / 32  # share of the field of view along ky that counts as its edge, at each end


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What is measured of one scan, dimensionless where no unit is named."""

    noise: float  # standard deviation in the corners of k-space, of the mean brightness
    high_share: float  # of the amplitude: root of the energy beyond half of the largest |ky|
    ramp_x: float  # linear phase along the readout, rad over the field of view, 2 pi a sample
    ramp_y: float  # the same along ky: how far the echo is from the middle row
    phase_slope: float  # rms gradient of the smoothed phase without the ramps, as they are given
    phase_detail: float  # rms deviation of the phase from the smoothed one, rad
    coils: float  # effective number: exp of the entropy of the coil covariance's eigenvalues
    coils_by_row: float  # the same of the maps along y, mean over x: what SENSE encodes with
    first_coil: float  # share of the largest eigenvalue
    support: float  # share of the field of view that holds tissue
    extent: float  # share of ky positions between the outermost tissue
    centre: float  # distance of the tissue's centre of mass from the middle along y
    edge: float  # brightness at both edges along y: above 0 where the object overflows
    shading: float  # standard deviation of the log of the coarse brightness inside
    n_coils: int
    n_ky: int


def statistics(sample: Sample) -> Statistics:
    """Measure one scan."""
    coil_images = inverse_fourier(sample.kspace, dim=-1)
    image = sense.combine(coil_images, sample.csm)
    noise = corner_noise(sample.kspace, sample.acquirable)
    tissue = _tissue(image, noise)
    brightness = float(image.abs()[tissue].mean())
    rss = (coil_images.abs().square().sum(0) - len(coil_images) * noise**2).clamp_min(0).sqrt()
    eigenvalues = _eigenvalues((sample.csm * image.abs()).flatten(1))
    rows = sample.csm.transpose(0, 1)[sample.csm.abs().any(0).any(-1)]
    n_edge = max(1, round(EDGE * image.shape[1]))
    image, ramps = _without_ramps(image)
    slope, detail = _phase(image, tissue)
    first, last = _outermost(tissue.any(0))
    place = torch.nonzero(tissue)[:, 1].float().mean()
    shares = energy(sample)
    return Statistics(
        noise=noise / brightness,
        high_share=float(np.sqrt(shares[N_BINS // 2 :].sum())),
        ramp_x=ramps[0],
        ramp_y=ramps[1],
        phase_slope=slope,
        phase_detail=detail,
        coils=float(_effective(eigenvalues)),
        coils_by_row=float(_effective(_eigenvalues(rows)).mean()),
        first_coil=float(eigenvalues.max() / eigenvalues.sum()),
        support=float(tissue.float().mean()),
        extent=(last + 1 - first) / image.shape[1],
        centre=abs(float(place) / image.shape[1] - 0.5),
        edge=float(torch.cat([rss[:, :n_edge], rss[:, -n_edge:]], 1).mean()) / brightness,
        shading=_shading(rss, tissue),
        n_coils=sample.csm.shape[0],
        n_ky=image.shape[1],
    )


def energy(sample: Sample) -> NDArray[np.float64]:
    """Return the share (N_BINS,) of the energy by |ky|, without that of the noise."""
    noise = corner_noise(sample.kspace, sample.acquirable)
    rows = np.flatnonzero(sample.acquirable)
    by_row = sample.kspace.abs().square().mean((0, 1)).numpy()[rows] - noise**2
    distance = np.abs(rows - sample.acquirable.size // 2)
    bins = np.minimum(N_BINS * distance / (distance.max() + 1), N_BINS - 1).astype(int)
    shares: NDArray[np.float64] = np.bincount(bins, by_row.astype(float), N_BINS).clip(0)
    return shares / shares.sum()


def table(found: Mapping[str, Statistics]) -> dict[str, dict[str, float]]:
    """Return the numbers of named scans, by name and statistic."""
    return {name: {f.name: getattr(s, f.name) for f in fields(s)} for name, s in found.items()}


def ranges(found: Sequence[Statistics]) -> dict[str, tuple[float, ...]]:
    """Return the least, the 5th, 50th and 95th percentile and the largest of every statistic."""
    quantiles = (0, 5, 50, 95, 100)
    return {
        f.name: tuple(
            float(v) for v in np.percentile([getattr(s, f.name) for s in found], quantiles)
        )
        for f in fields(Statistics)
    }


def _tissue(image: Tensor, noise: float) -> Tensor:
    """Mark pixels (x, y) whose smoothed brightness is that of tissue, and above the noise."""
    local = functional.avg_pool2d(image.abs()[None, None], 5, stride=1, padding=2)[0, 0]
    bright = float(torch.quantile(local[local > 0.05 * local.max()], 0.9))
    return local > max(TISSUE * bright, min(2 * noise, 0.5 * bright))


def _eigenvalues(vectors: Tensor) -> Tensor:
    """Return the eigenvalues of the covariance over coils of (..., coils, positions)."""
    return torch.linalg.eigvalsh(vectors @ vectors.mH).clamp_min(0)


def _effective(eigenvalues: Tensor) -> Tensor:
    """Return how many equal eigenvalues (..., coils) would have the same entropy."""
    share = eigenvalues / eigenvalues.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1).exp()


def _without_ramps(image: Tensor) -> tuple[Tensor, list[float]]:
    """Take the mean linear phase out of an image (x, y); returns it with its ramps over x, y."""
    ramps = []
    for dim in (0, 1):
        n = image.shape[dim]
        step = (image.narrow(dim, 1, n - 1) * image.narrow(dim, 0, n - 1).conj()).sum().angle()
        turn = torch.polar(torch.ones(n), -step * torch.arange(n))
        image = image * (turn[:, None] if dim == 0 else turn)
        ramps.append(abs(float(step)) * n)
    return image, ramps


def _phase(image: Tensor, tissue: Tensor) -> tuple[float, float]:
    """Return the rms slope of the smooth phase and the rms of what is left, over bright tissue.

    Smooth is what a window of a sixteenth of the field of view leaves. Dark tissue, whose phase is
    that of the noise, does not enter.
    """
    smooth = _smoothed(image, [max(3, round(n / 16) | 1) for n in image.shape])
    bright = tissue & (image.abs() > 0.5 * image.abs()[tissue].mean())
    squares = []
    for dim in (0, 1):
        n = image.shape[dim]
        ahead, behind = smooth.narrow(dim, 1, n - 1), smooth.narrow(dim, 0, n - 1)
        step = (ahead * behind.conj()).angle()[bright.narrow(dim, 0, n - 1)] * n
        squares.append(float(step.square().mean()))
    detail = (image * smooth.conj()).angle()[bright].square().mean().sqrt()
    return float(np.sqrt(sum(squares))), float(detail)


def _smoothed(image: Tensor, window: list[int]) -> Tensor:
    """Average complex pixels (x, y) over a window of odd size."""
    parts = torch.stack([image.real, image.imag])[None]
    smooth = functional.avg_pool2d(parts, window, stride=1, padding=[n // 2 for n in window])[0]
    return torch.complex(smooth[0], smooth[1])


def _shading(rss: Tensor, tissue: Tensor) -> float:
    """Return the standard deviation of the log of the brightness over 8 x 8 blocks of tissue."""
    inside = tissue.float()
    weight = functional.adaptive_avg_pool2d(inside[None], 8)[0]
    mean = functional.adaptive_avg_pool2d((rss * inside)[None], 8)[0] / weight.clamp_min(1e-6)
    return float(mean[(weight > 0.5) & (mean > 0)].log().std())


def _outermost(marked: Tensor) -> tuple[int, int]:
    """Return the first and the last marked position (n,)."""
    where = torch.nonzero(marked).flatten()
    return int(where[0]), int(where[-1])
