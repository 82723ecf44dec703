"""The pictures of the report: masks as lines of k-space, images and their errors."""

import numpy as np
import torch
from torch import Tensor

from mnet.score.image_quality import fit_scale, nrmse

from . import pictures as pictures
from .findings import Findings
from .html import text
from .verdict import name

ERROR_GAIN = 5
_METHODS = {"modl": "MoDL", "cg_sense": "CG-SENSE", "zero_filled": "zero-filled"}
_BESIDE = (("uniform_random", "modl"), ("mnet_select", "cg_sense"), ("mnet_select", "zero_filled"))


def masks(findings: Findings) -> str:
    """Draw the masks of the scan, slice by slice, and one of each other sampler below them."""
    plan, fixed = findings.volume.plan, findings.samplers
    population = fixed["best_single"][0][0] if "best_single" in fixed else None
    strips = []
    for entry, mask in zip(findings.scan["slices"], findings.masks, strict=True):
        label = f"slice {entry['slice']} · {'fallback' if entry['fallback'] else 'adaptive'}"
        note = f"{mask.sum()} lines"
        if population is not None:
            note += f", {int((mask & ~population).sum())} not in the best fixed mask"
        strips.append((label, pictures.mask_svg(mask, plan, population), note))
    strips += [
        (name(sampler), pictures.mask_svg(drawn[0][0], plan), f"{drawn[0][0].sum()} lines")
        for sampler, drawn in fixed.items()
        if sampler not in ("mnet_select", "shuffled") and drawn
    ]
    rows = "".join(
        f"<div>{text(label)}</div>{svg}<div>{text(note)}</div>" for label, svg, note in strips
    )
    first = findings.center - plan.center
    counters = np.flatnonzero(plan.acquirable) + first
    ticks = sorted({int(counters[0]), findings.center, int(counters[-1])})
    axis = pictures.axis_html(plan.acquirable.size, first, ticks)
    legend = (
        '<p class="legend"><i class="cal"></i>calibration <i class="line"></i>line '
        '<i class="new"></i>adaptive line that the best fixed mask lacks '
        '<i class="no"></i>cannot be acquired</p>'
    )
    return (
        f"<section><h2>Masks</h2>{pictures.hatch_svg()}{legend}"
        f'<div class="strips">{rows}<div></div>{axis}<div>ky counter</div></div></section>'
    )


def images(findings: Findings) -> str:
    """Show every slice: the reference, the image received, others, and the errors below them.

    One scale per volume, one window per slice for all its images.
    """
    truth = findings.reference
    columns = [("As received", findings.images)]
    columns += [
        (f"{name(sampler)}, {_METHODS.get(method, method)}", findings.kept[sampler, method])
        for sampler, method in _BESIDE
        if (sampler, method) in findings.kept
    ]
    scaled = [(title, image * fit_scale(image, truth)) for title, image in columns]
    sections = []
    for i, entry in enumerate(findings.scan["slices"]):
        white = float(torch.quantile(truth[i], 0.998))
        figures = [_figure("Reference: all lines", truth[i], None, white, "")]
        for title, image in scaled:
            error = (image[i] - truth[i]).abs()
            caption = f"NRMSE {float(nrmse(image[i : i + 1], truth[i : i + 1])):.4f}"
            figures.append(_figure(title, image[i], error, white, caption))
        sections.append(
            f"<h3>Slice {text(entry['slice'])}</h3>"
            f'<div class="figures" style="--n:{len(figures)}">{"".join(figures)}</div>'
        )
    return f"<section><h2>Images and errors</h2>{''.join(sections)}</section>"


def _figure(title: str, image: Tensor, error: Tensor | None, white: float, caption: str) -> str:
    parts = [f'<img alt="{text(title)}" src="{pictures.grey_png(image.cpu().numpy(), white)}">']
    if error is None:
        parts.append(
            f'<div class="key"><p>errors &times; {ERROR_GAIN}</p><div class="scale"></div>'
            f"<p><span>0</span><span>{100 / ERROR_GAIN:.0f} % of white</span></p></div>"
        )
    else:
        data = pictures.heat_png(error.cpu().numpy(), white / ERROR_GAIN)
        parts.append(f'<img alt="error of {text(title)}" src="{data}">')
    return (
        f"<figure><figcaption>{text(title)}</figcaption>{''.join(parts)}"
        f"<figcaption><b>{text(caption)}</b></figcaption></figure>"
    )
