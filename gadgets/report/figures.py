"""What the report's pictures show: masks as lines of k-space, images and their errors."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnet.masks.line_plan import Bool
from mnet.score.image_quality import fit_scale, nrmse

from .findings import Findings
from .pictures import grey_png, heat_png, mask_paths
from .verdict import name

ERROR_GAIN = 5
_METHODS = {"modl": "MoDL", "cg_sense": "CG-SENSE", "zero_filled": "zero-filled"}
_BESIDE = (("uniform_random", "modl"), ("mnet_select", "cg_sense"), ("mnet_select", "zero_filled"))


def strips(findings: Findings) -> Iterator[tuple[str, dict[str, str], str]]:
    """Draw the masks of the scan, slice by slice, and one of each other sampler below them.

    Each comes with what stands left of it and right of it.
    """
    plan, fixed = findings.volume.plan, findings.samplers
    population = fixed["best_single"][0][0] if "best_single" in fixed else None
    for entry, mask in zip(findings.scan["slices"], findings.masks, strict=True):
        label = f"slice {entry['slice']} · {'fallback' if entry['fallback'] else 'adaptive'}"
        yield label, mask_paths(mask, plan, population), _note(mask, population)
    for sampler, drawn in fixed.items():
        if sampler not in ("mnet_select", "shuffled") and drawn:
            mask = drawn[0][0]
            yield name(sampler), mask_paths(mask, plan), _note(mask, None)


def _note(mask: Bool, population: Bool | None) -> str:
    if population is None:
        return f"{mask.sum()} lines"
    return f"{mask.sum()} lines, {(mask & ~population).sum()} not in the best fixed mask"


def axis(findings: Findings) -> dict[int, float]:
    """Give the ky counters to print below the masks, and where: in percent of their width."""
    plan = findings.volume.plan
    rows = np.flatnonzero(plan.acquirable)
    ticks = sorted({int(rows[0]), plan.center, int(rows[-1])})
    first = findings.center - plan.center  # counter of row 0
    return {row + first: 100 * (row + 0.5) / plan.acquirable.size for row in ticks}


def columns(findings: Findings) -> list[list[dict[str, Any]]]:
    """Show every slice: the reference, the image received and others, with their errors.

    One scale per volume, one window per slice for all its images.
    """
    truth = findings.reference
    shown = {"As received": findings.images} | {
        f"{name(sampler)}, {_METHODS[method]}": findings.kept[sampler, method]
        for sampler, method in _BESIDE
        if (sampler, method) in findings.kept
    }
    scaled = {title: image * fit_scale(image, truth) for title, image in shown.items()}
    return [
        [
            {"title": "Reference: all lines", "image": grey_png(t.cpu().numpy(), _white(t))},
            *(_column(title, image[i], t) for title, image in scaled.items()),
        ]
        for i, t in enumerate(truth)
    ]


def _column(title: str, image: Tensor, truth: Tensor) -> dict[str, Any]:
    white, error = _white(truth), (image - truth).abs()
    return {
        "title": title,
        "image": grey_png(image.cpu().numpy(), white),
        "error": heat_png(error.cpu().numpy(), white / ERROR_GAIN),
        "nrmse": float(nrmse(image[None], truth[None])),
    }


def _white(truth: Tensor) -> float:
    return float(torch.quantile(truth, 0.998))
