"""Score many masks on one fully sampled volume: what a scan would have gained from each.

Every sampler gets the same lines to choose from and the same budget; maps, scaling and the adaptive
sampler see the calibration lines alone. All images are scored by `mnet.score.image_quality.score`
against all lines of the same volume, combined with the same maps.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..masks import densities
from ..masks.line_plan import Bool, LinePlan
from ..physics import fov, sense
from ..physics.coil_maps import coil_maps
from ..physics.fourier import inverse_fourier
from ..recon import linear
from ..recon.modl import MoDL
from ..sampler.choosing import Choosing
from ..sampler.features import coil_features, features
from ..sampler.mnet import mask_of
from .image_quality import Scores, score

Method = Literal["modl", "cg_sense", "zero_filled"]
METHODS: tuple[Method, ...] = ("modl", "cg_sense", "zero_filled")
Masks = dict[str, list[Bool]]  # sampler -> one (slices, ky) array per seed
Progress = Callable[[int, int], None]  # volumes reconstructed, volumes in all


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """All acquirable lines of several slices, whitened, and one plan for all of them."""

    kspace: Tensor  # (slices, coils, x, ky) complex64, hybrid, zero on rows that are not acquirable
    plan: LinePlan
    crop: tuple[int, int] | None = None  # pixels (x, y) that stay of the encoded field of view
    matrix: tuple[int, int] | None = None  # of the final image, over the same field of view

    def __post_init__(self) -> None:
        n_ky = self.plan.acquirable.size
        if self.kspace.ndim != 4 or self.kspace.shape[-1] != n_ky:
            raise ValueError(
                f"k-space has shape {tuple(self.kspace.shape)}, expected (slices, coils, x, {n_ky})"
            )
        size = tuple(self.kspace.shape[-2:])
        if self.crop is not None and (self.crop[0] > size[0] or self.crop[1] > size[1]):
            raise ValueError(f"crop {self.crop} exceeds the encoded image of {size} pixels")

    @property
    def calibration(self) -> Tensor:
        """The calibration lines (slices, coils, x, L), a copy without any other line."""
        return self.kspace[..., torch.from_numpy(self.plan.calibration).to(self.kspace.device)]

    @property
    def n_slices(self) -> int:
        """How many slices there are."""
        return self.kspace.shape[0]

    def to_recon_space(self, images: Tensor) -> Tensor:
        """Bring complex images (..., x, y) from the encoded space to the reconstructed one."""
        return fov.to_recon_space(images, self.crop, self.matrix)


def maps(volume: Volume) -> Tensor:
    """Estimate coil maps (slices, coils, x, ky) from the calibration lines."""
    n_ky = volume.kspace.shape[-1]
    return torch.cat([coil_maps(lines[None], n_ky) for lines in volume.calibration])


def reference(volume: Volume, csm: Tensor) -> Tensor:
    """Return the image of all lines, combined with `csm`: magnitudes (slices, x, y)."""
    return volume.to_recon_space(sense.combine(inverse_fourier(volume.kspace, dim=-1), csm)).abs()


def rss(volume: Volume) -> Tensor:
    """Return the root-sum-of-squares image of all lines (slices, x, y)."""
    coils = volume.to_recon_space(inverse_fourier(volume.kspace, dim=-1))
    return coils.abs().square().sum(-3).sqrt()


@torch.inference_mode()
def reconstruct(
    volume: Volume, csm: Tensor, mask: Bool, method: Method, model: MoDL | None = None
) -> Tensor:
    """Return magnitudes (slices, x, y) from the lines of `mask` (slices, ky) alone.

    `model` is needed by the method "modl" and unused by others; ValueError where it is missing.
    """
    taken = torch.from_numpy(mask).to(csm.device)
    images = [
        _reconstruct_slice(
            torch.where(rows, kspace, 0)[None], coils[None], rows[None], method, model
        )
        for kspace, coils, rows in zip(volume.kspace, csm, taken, strict=True)
    ]
    return volume.to_recon_space(torch.cat(images)).abs()


def _reconstruct_slice(
    kspace: Tensor, csm: Tensor, rows: Tensor, method: Method, model: MoDL | None
) -> Tensor:
    mask = rows.to(kspace.real.dtype)
    match method:
        case "zero_filled":
            return linear.zero_filled(kspace, csm, mask)
        case "cg_sense":
            return linear.cg_sense(kspace, csm, mask)
        case "modl":
            if model is None:
                raise ValueError("method 'modl' needs a model, got None")
            image: Tensor = model(kspace, csm, mask)
            return image
    raise ValueError(f"unknown method {method!r}, expected one of {METHODS}")


@torch.inference_mode()
def sampler_masks(volume: Volume, model: Choosing, seeds: Sequence[int]) -> Masks:
    """Draw the masks to compare: sampler -> per seed a bool array (slices, ky).

    `mnet_select` is adaptive, one mask per slice; `best_single` is the best fixed one it knows;
    `shuffled` gives every slice the adaptive mask of the next one, which shows whether the mask
    belongs to its slice, and is absent with one slice. Random samplers draw anew for every slice
    and seed; the others do not depend on a seed and have one entry.
    """
    plan, n = volume.plan, volume.n_slices
    z = features(volume.calibration)
    logits = model(z, plan, coil_features(volume.calibration))
    adaptive = np.stack([mask_of(row, plan) for row in logits])
    drawn: Masks = {"mnet_select": [adaptive], "best_single": [_repeat(model.population(plan), n)]}
    if n > 1:
        drawn["shuffled"] = [np.roll(adaptive, -1, axis=0)]
    for name, draw in (
        ("uniform_random", densities.uniform_random),
        ("variable_density", densities.variable_density),
    ):
        drawn[name] = [
            np.stack([draw(plan, np.random.default_rng([seed, i])) for i in range(n)])
            for seed in seeds
        ]
    drawn["equispaced"] = [_repeat(densities.equispaced(plan), n)]
    drawn["low_pass"] = [_repeat(densities.low_pass(plan), n)]
    return drawn


def compare(
    volume: Volume,
    samplers: Mapping[str, Sequence[Bool]],
    model: MoDL | None,
    *,
    methods: Sequence[Method] = METHODS,
    csm: Tensor | None = None,
    progress: Progress | None = None,
    keep: MutableMapping[tuple[str, str], Tensor] | None = None,
) -> list[dict[str, Any]]:
    """Reconstruct and score every sampler with every method; one row each, ready for JSON.

    A row holds sampler, reconstructor, acceleration (on acquirable rows), acceleration_encoded,
    n_seeds, the means over slices and seeds of nrmse, nrmse_rss, psnr and ssim, `per_slice` with
    the same figures as means over seeds, and `nrmse_per_seed`. Into `keep` go the images of the
    first seed by (sampler, method). ValueError names a sampler whose masks are off the budget.
    """
    csm = maps(volume) if csm is None else csm
    truth, root_sum = reference(volume, csm), rss(volume)
    total = len(methods) * sum(len(drawn) for drawn in samplers.values())
    done = 0
    rows = []
    for name, drawn in samplers.items():
        for method in methods:
            scores = []
            for mask in drawn:
                _check(mask, volume, name)
                image = reconstruct(volume, csm, mask, method, model)
                scores.append(score(image, truth, root_sum))
                if keep is not None:
                    keep.setdefault((name, method), image)
                done += 1
                if progress is not None:
                    progress(done, total)
            rows.append({"sampler": name, "reconstructor": method, **_summary(scores, volume)})
    return rows


def hamming(mask: Bool) -> float | None:
    """Return the mean number of rows in which two slices' masks (slices, ky) differ.

    None with one slice. Two masks of equal budget differ in an even number of rows: every line
    that moved counts twice.
    """
    pairs = [int((a != b).sum()) for a, b in combinations(mask, 2)]
    return float(np.mean(pairs)) if pairs else None


def _repeat(mask: Bool, n_slices: int) -> Bool:
    return np.repeat(mask[None], n_slices, axis=0)


def _check(mask: Bool, volume: Volume, name: str) -> None:
    plan = volume.plan
    if mask.shape != (volume.n_slices, plan.acquirable.size):
        raise ValueError(
            f"masks of {name} have shape {mask.shape}, expected "
            f"{(volume.n_slices, plan.acquirable.size)}"
        )
    counts = mask.sum(axis=1)
    if np.any(counts != plan.n_lines) or np.any(mask & ~plan.acquirable):
        raise ValueError(
            f"masks of {name} have {sorted(set(counts.tolist()))} lines, expected "
            f"{plan.n_lines} and all of them acquirable"
        )


def _summary(scores: list[Scores], volume: Volume) -> dict[str, Any]:
    plan = volume.plan
    names = Scores.__slots__
    means = {name: torch.stack([getattr(s, name) for s in scores]).mean(0) for name in names}
    return {
        "acceleration": float(plan.acquirable.sum() / plan.n_lines),
        "acceleration_encoded": plan.acquirable.size / plan.n_lines,
        "n_seeds": len(scores),
        **{name: float(value.mean()) for name, value in means.items()},
        "per_slice": [
            {name: float(means[name][i]) for name in names} for i in range(volume.n_slices)
        ],
        "nrmse_per_seed": [float(s.nrmse.mean()) for s in scores],
    }
