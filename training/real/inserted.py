"""Do small things survive? Real scans with and without inserted objects, reconstructed alike.

An object enters the images of all coils as object times coil map, with maps of all lines, so noise
and anatomy are those of the scan. What a reconstruction makes of it is the difference of its two
images, held against the difference of the two images of all lines, which the same matrix limits
alike:

- recovered contrast, of each object: the projection of the one difference onto the other within the
  pixels of the object and its margin. 1 is perfect, 0 is lost.
- false structure, of all objects together: the norm of the difference outside all of them, as a
  share of the norm of the true difference. Objects that fold over or ring are found here; what
  the true difference holds out there, ringing of the matrix, is not counted.
- contrast to noise, in the single image with objects: how far an object stands out from its margin,
  over the standard deviation of the image's error in the same pixels.

Maps, mask and noise are the same with and without. Where a method is not linear both depend on the
contrast; where it is, contrast to noise alone does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor

from mnet.masks.line_plan import Bool, centre_block
from mnet.physics import sense
from mnet.physics.fourier import fourier
from training.real.methods import Method, Reconstruct, reconstruct
from training.real.objects import (
    CONTRASTS,
    KINDS,
    Kind,
    NoRoomError,
    Placed,
    object_image,
    place,
    tissue,
)
from training.real.scans import RealScan, maps_of
from training.real.scores import fit

N_CALIBRATION = 48  # rows about the centre from which the maps of all lines are


@dataclass(frozen=True, kw_only=True, eq=False)
class Insertion:
    """A scan without objects, the same with them, and where they are."""

    without: RealScan
    within: RealScan
    placed: tuple[Placed, ...]
    kind: Kind

    @cached_property
    def truth(self) -> Tensor:
        """The difference (x, y) of the images of all lines, on the encoded field of view."""
        return self.within.encoded_reference - self.without.encoded_reference

    @cached_property
    def outside(self) -> Tensor:
        """The pixels (x, y) that belong to no object."""
        return ~torch.stack([entry.own for entry in self.placed]).any(0)

    @property
    def window(self) -> tuple[slice, slice]:
        """The rectangle that holds all objects."""
        x, y = np.nonzero(~self.outside.numpy())
        return slice(int(x.min()), int(x.max()) + 1), slice(int(y.min()), int(y.max()) + 1)


def insert(
    scan: RealScan, kind: Kind, contrast: float, seed: int = 0, full: Tensor | None = None
) -> Insertion:
    """Insert objects of a kind; places follow from file, slice, kind and seed, not from contrast.

    `full` are the maps of all lines, made where not given.

    Raises
    ------
    NoRoomError
        If there is no tissue with room for them; the file is named.
    """
    full = full_maps(scan) if full is None else full
    image = sense.combine(scan.coil_images, full)
    words = [seed, scan.slice, kind.size, len(kind.shape), *scan.file.encode()]
    try:
        placed = place(tissue(image) & full.abs().any(0), kind, np.random.default_rng(words))
    except NoRoomError as error:
        raise NoRoomError(f"{scan.file}, slice {scan.slice}: {error}") from error
    added = fourier(full * object_image(image, placed, contrast), dim=-1)
    added[..., ~torch.from_numpy(scan.sample.acquirable)] = 0  # rows that no scan has
    kspace = scan.sample.kspace + added
    within = replace(scan, sample=replace(scan.sample, kspace=kspace, clean=kspace))
    return Insertion(without=scan, within=within, placed=tuple(placed), kind=kind)


def full_maps(scan: RealScan) -> Tensor:
    """Estimate maps (coils, x, y) from many central lines, which no accelerated scan has."""
    rows = scan.sample.acquirable
    n = min(N_CALIBRATION, int(rows.sum()))
    return maps_of(scan.sample.kspace, centre_block(rows, n, scan.plan.center))


def measure(inserted: Insertion, without: Tensor, within: Tensor) -> dict[str, object]:
    """Return recovered contrast, false structure and contrast to noise of two images (x, y).

    `recovered` is the mean over objects, `lowest` the least of them, `each` one by one.
    """
    found, truth = within - without, inserted.truth
    each = [projection(found, truth, entry.own) for entry in inserted.placed]
    false = (found - truth)[inserted.outside].abs().square().sum().sqrt()
    return {
        "recovered": float(np.mean(each)),
        "lowest": min(each),
        "each": each,
        "false": float(false / truth.abs().square().sum().sqrt()),
        "cnr": visible(inserted, within),
    }


def projection(found: Tensor, truth: Tensor, where: Tensor) -> float:
    """Return <truth, found> / <truth, truth> over some pixels (x, y), the real part."""
    a, b = truth[where], found[where]
    return float((a.conj() * b).sum().real / a.abs().square().sum())


def visible(inserted: Insertion, within: Tensor) -> float | None:
    """Return the mean contrast to noise of objects in one magnitude image (x, y); None if exact.

    The contrast is what the image has more than the reference without objects, within the object
    against its margin; the noise is the image's error in the same pixels.
    """
    truth = inserted.within.encoded_reference
    image = (within * fit(within, truth)).abs()
    more = image - inserted.without.encoded_reference.abs()
    error = image - truth.abs()
    ratios = []
    for entry in inserted.placed:
        inner, ring = entry.cover > 0.5, entry.own & (entry.cover == 0)
        if not inner.any():  # a small disc that lies between pixels
            inner = entry.cover == entry.cover.max()
        contrast = entry.sign * (more[inner].mean() - more[ring].mean())
        noise = error[entry.own].std()
        if noise < 1e-6 * truth.abs().max():
            return None
        ratios.append(float(contrast / noise))
    return float(np.mean(ratios))


def survival(
    scan: RealScan,
    mask: Bool,
    calls: Mapping[str, Reconstruct],
    kinds: Sequence[Kind] = KINDS,
    contrasts: Sequence[float] = CONTRASTS,
) -> tuple[list[dict[str, object]], list[str]]:
    """Return a row for every method, kind and contrast, and which kinds find no room."""
    without = {name: reconstruct(call, scan, mask) for name, call in calls.items()}
    full = full_maps(scan)
    rows: list[dict[str, object]] = []
    words = []
    for kind, contrast in product(kinds, contrasts):
        try:
            inserted = insert(scan, kind, contrast, full=full)
        except NoRoomError as error:
            words.append(str(error))
            continue
        for name, call in calls.items():
            found = measure(inserted, without[name], reconstruct(call, inserted.within, mask))
            rows.append({**_about(inserted, name), "contrast": contrast, **found})
    return rows, list(dict.fromkeys(words))


def _about(inserted: Insertion, method: str) -> dict[str, object]:
    scan = inserted.without
    return {
        "file": scan.file,
        "subject": scan.subject,
        "slice": scan.slice,
        "acceleration": scan.sample.acceleration,
        "method": method,
        "shape": inserted.kind.shape,
        "size": inserted.kind.size,
        "n_objects": len(inserted.placed),
    }


def chosen_calls(methods: Sequence[Method], settings: dict[str, str]) -> dict[str, Reconstruct]:
    """Return the call of every method in the setting that was best on the scan itself."""
    return {
        method.name: dict(method.settings)[settings[method.name]]
        for method in methods
        if method.name in settings
    }
