"""Scans as no sampler learned from, made of ordinary ones: same matrix, coils and noise.

Each case is named by what a guard shall say of it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from mnet.physics.fourier import fourier, inverse_fourier
from mnet.sampler.guard import EMPTY, FOLDED, NOISE, PARTIAL, PHANTOM
from training.data.corpus import Sample
from training.data.images import Volume
from training.data.phantoms import bottles
from training.data.simulate import Size, folded, simulate

Case = Callable[[Sample, np.random.Generator], Sample | None]
OVERFLOW = (1.1, 1.5)  # extent of the object over the field of view along ky
LEFT_OUT = (0.1, 0.35)  # share of the readout before the echo, as training.data.simulate draws it
WITHIN = 0.99  # share of the energy along y that is the object's extent
SMALLEST = 48  # rows
# samples before the echo, of the largest: nothing was measured there, however quiet a scan is
NOTHING = 1e-5


def noise_only(sample: Sample, rng: np.random.Generator) -> Sample:
    """Measure nothing but noise, white as whitening leaves it."""
    noise = rng.standard_normal((*sample.kspace.shape, 2), dtype=np.float32)
    noise *= sample.acquirable[:, None] / np.float32(np.sqrt(2))
    kspace = torch.view_as_complex(torch.from_numpy(noise))
    return replace(sample, kspace=kspace * (sample.noise or 1.0))


def empty(sample: Sample, _: np.random.Generator) -> Sample:
    """Measure nothing at all."""
    return replace(sample, kspace=torch.zeros_like(sample.kspace))


def fold_over(sample: Sample, rng: np.random.Generator) -> Sample | None:
    """Measure with a field of view along ky that is smaller than the object; None if tiny."""
    clean = inverse_fourier(sample.clean, -1)
    share = clean.abs().square().sum((0, 1)).cumsum(0)
    share = share / share[-1]
    first = int((share < (1 - WITHIN) / 2).sum())
    extent = int((share < (1 + WITHIN) / 2).sum()) - first
    n_ky = round(extent / rng.uniform(*OVERFLOW))
    if n_ky < SMALLEST:
        return None
    n = share.numel()
    images = inverse_fourier(sample.kspace, -1).roll(n // 2 - (first + extent // 2), -1)
    acquirable = np.ones(n_ky, dtype=bool)
    return replace(sample, kspace=fourier(folded(images, n_ky), -1), acquirable=acquirable)


def partial_echo(sample: Sample, rng: np.random.Generator) -> Sample:
    """Leave out a part of the readout at one end, before twofold oversampling is cropped."""
    n = sample.kspace.shape[1]
    wide = torch.nn.functional.pad(sample.kspace, (0, 0, (n + 1) // 2, n // 2))
    readouts = fourier(wide, -2)
    cut = round(2 * n * rng.uniform(*LEFT_OUT))
    if rng.random() < 0.5:
        readouts[:, :cut] = 0
    else:
        readouts[:, 2 * n - cut :] = 0
    return replace(sample, kspace=inverse_fourier(readouts, -2).narrow(1, (n + 1) // 2, n))


def phantom(sample: Sample, rng: np.random.Generator) -> Sample | None:
    """Measure a bottle, with rods, bars or a grid, or without; None where it is odd otherwise."""
    objects = bottles(int(rng.integers(2**31)), n=3)  # the first of three is even
    n_coils, n_x, n_ky = sample.kspace.shape
    size = Size(n_x=n_x, n_ky=n_ky, n_coils=n_coils)
    scan = simulate([Volume(data=objects, reslice=False)], size, rng)
    if scan.drawn.folded or not scan.echo.all():
        return None
    kspace = scan.measure(rng)
    return replace(sample, kspace=kspace, clean=scan.signal, acquirable=scan.acquirable)


CASES: dict[str, Case] = {
    NOISE: noise_only,
    EMPTY: empty,
    PARTIAL: partial_echo,
    FOLDED: fold_over,
    PHANTOM: phantom,
}


def case_of(sample: Sample) -> str:
    """Return which case a scan is as it was drawn, "" for an ordinary one."""
    if sample.folded:
        return FOLDED
    n = sample.kspace.shape[-1] // 2
    readouts = fourier(sample.kspace[..., n - 1 : n + 2], -2).abs().amax((0, 2))
    n_ends = max(1, readouts.numel() // 12)  # a partial echo leaves out a tenth or more
    quieter = min(readouts[:n_ends].amax(), readouts[-n_ends:].amax())
    return PARTIAL if quieter < NOTHING * readouts.amax() else ""
