"""The figures of the evaluation, drawn with matplotlib and written as PNG."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from mnet.masks.line_plan import Bool, LinePlan

Floats = NDArray[np.floating]
ERROR_GAIN = 5
LINEAR = 5  # percent
_TICKS = (-50, -20, -5, -2, 0, 2, 5, 20, 100)
INK, SOFT, BLUE, RED = "#1c2430", "#5d6878", "#2166ac", "#c4420b"
# not acquirable, free, line, calibration
_LINES = ListedColormap(["#d5d9df", "#f7f8fa", "#333c4a", RED])
_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_NAMES = {
    "mnet": "MNet",
    "mnet_select": "MNet-select",
    "mnet_experts": "MNet-experts",
    "mnet_fixed_unet": "MNet, fixed U-Net",
    "loupe": "LOUPE",
    "suno_nn": "SUNO neighbour",
    "best_single": "best single",
    "population": "population",
    "shuffled": "another scan's mask",
    "uniform_random": "uniform random",
    "variable_density": "variable density",
    "icd_oracle": "ICD oracle",
    "low_pass": "low-pass",
    "modl": "MoDL",
    "unet": "U-Net",
    "cg_sense": "CG-SENSE",
    "zero_filled": "zero-filled",
}


def name(key: str) -> str:
    """Name a sampler or a reconstructor to a reader."""
    return _NAMES.get(key, key.replace("_", " "))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """A reconstruction in a figure."""

    title: str
    image: Floats  # (x, y) magnitude, on the scale of the reference
    figures: Mapping[str, float]  # nrmse, psnr, ssim


def draw_masks(path: Path, masks: Mapping[str, Bool], plan: LinePlan) -> None:
    """Draw one line pattern (ky,) per sampler, all for the same scan."""
    with rc_context(_STYLE):
        figure, axes = _figure(len(masks), 1, (8.5, 0.55 + 0.3 * len(masks)))
        for axis, (sampler, mask) in zip(axes[:, 0], masks.items(), strict=True):
            kinds = np.where(plan.acquirable, 1, 0) + mask + (mask & plan.calibration)
            axis.imshow(
                kinds[None], cmap=_LINES, vmin=0, vmax=3, aspect="auto", interpolation="nearest"
            )
            axis.set_yticks([0], [name(sampler)], color=INK)
            axis.tick_params(left=False, bottom=False, labelbottom=False)
            axis.spines[:].set_visible(False)
        last = axes[-1, 0]
        ticks = [0, plan.center, plan.acquirable.size - 1]
        last.set_xticks(
            ticks, [f"{tick - plan.center:+d}" if tick != plan.center else "0" for tick in ticks]
        )
        last.tick_params(bottom=True, labelbottom=True)
        last.set_xlabel("phase-encode row, k = 0 at 0; red: calibration")
        _save(figure, path)


def draw_reconstructions(path: Path, reference: Floats, shown: Sequence[Shown]) -> None:
    """Draw images, an enlarged detail and error maps; one window for all, errors x 5.

    Readout runs downwards.
    """
    white = float(np.quantile(reference, 0.998))
    detail = _detail(reference)
    aspect = reference.shape[0] / reference.shape[1]
    n = len(shown) + 1
    with rc_context(_STYLE):
        figure, axes = _figure(3, n, (1.75 * n, 1.75 * (2 * aspect + 1) + 0.9))
        ratios = [aspect, 1.0, aspect]
        axes[0, 0].get_gridspec().set_height_ratios(ratios)
        for column, image in enumerate([reference, *(entry.image for entry in shown)]):
            axes[0, column].imshow(image, cmap="gray", vmin=0, vmax=white)
            axes[1, column].imshow(image[detail], cmap="gray", vmin=0, vmax=white)
            axes[0, column].add_patch(_frame(detail))
        axes[0, 0].set_title("reference\nall lines", color=INK, fontsize=9)
        axes[2, 0].text(
            0.5,
            0.5,
            f"errors\nx {ERROR_GAIN}, same window",
            ha="center",
            va="center",
            color=SOFT,
            transform=axes[2, 0].transAxes,
        )
        for column, entry in enumerate(shown, start=1):
            error = ERROR_GAIN * np.abs(entry.image - reference)
            axes[2, column].imshow(error, cmap="gray", vmin=0, vmax=white)
            axes[0, column].set_title(entry.title, color=INK, fontsize=9)
            found = entry.figures
            axes[2, column].set_xlabel(
                f"NRMSE {found['nrmse']:.4f}\n{found['psnr']:.2f} dB\nSSIM {found['ssim']:.4f}"
            )
        for axis in axes.flat:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        _save(figure, path)


def draw_distribution(
    path: Path, differences: Mapping[str, Mapping[str, Sequence[float]]], baseline: str
) -> None:
    """Draw paired differences to the baseline in percent: sampler -> subject -> one per scan.

    The dot is a mean, the violin the spread, every scan a point. The scale is linear up to LINEAR
    and logarithmic beyond: good masks differ by one percent, bad ones by a hundred.
    """
    every = [v for parts in differences.values() for values in parts.values() for v in values]
    limits = min(*every, -LINEAR) * 1.2, max(*every, LINEAR) * 1.2
    subjects = list(dict.fromkeys(s for parts in differences.values() for s in parts))
    with rc_context(_STYLE):
        figure, axes = _figure(
            1, len(subjects), (1.2 + 2.9 * len(subjects), 1.2 + 0.42 * len(differences))
        )
        rng = np.random.default_rng(0)
        for axis, subject in zip(axes[0], subjects, strict=True):
            for place, parts in enumerate(differences.values()):
                values = np.asarray(parts.get(subject, ()), dtype=float)
                if values.size == 0:
                    continue
                _violin(axis, values, place, rng)
            axis.axvline(0, color=INK, linewidth=0.8)
            axis.set_title(subject, fontsize=10, color=INK)
            axis.set_xscale("symlog", linthresh=LINEAR, linscale=1.5)
            axis.set_xticks(_TICKS, [f"{tick:+d}" if tick else "0" for tick in _TICKS])
            axis.set_xticks([], minor=True)
            axis.set_xlim(*limits)
            axis.set_xlabel(f"NRMSE against {name(baseline)}, %")
            axis.set_ylim(len(differences) - 0.5, -0.5)
            axis.set_yticks(range(len(differences)), [])
        axes[0, 0].set_yticks(range(len(differences)), [name(s) for s in differences], color=INK)
        _save(figure, path)


def draw_curves(path: Path, logs: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw what training logs say: one panel per run, one line per figure.

    A record has `step` and numbers by name. Training losses are thin; what never changes, such as
    the error without a network, is dashed.
    """
    curves = {run: _curves(log) for run, log in logs.items()}
    curves = {run: found for run, found in curves.items() if found}
    if not curves:
        raise ValueError("training logs: expected records with a step and a figure, got none")
    columns = min(len(curves), 4)
    rows = -(-len(curves) // columns)
    with rc_context(_STYLE):
        figure, axes = _figure(rows, columns, (3.2 * columns, 2.5 * rows))
        for axis, (run, found) in zip(axes.flat, curves.items(), strict=False):
            for key, points in found.items():
                steps, values = points.T
                style = "--" if np.ptp(values) == 0 else "-"
                width = 0.8 if key.startswith("loss") else 1.6
                axis.plot(steps, values, style, label=key.replace("_", " "), linewidth=width)
            axis.set_title(run, fontsize=9, color=INK)
            axis.set_xlabel("step")
            axis.legend(frameon=False, fontsize=7)
        for axis in list(axes.flat)[len(curves) :]:
            axis.set_visible(False)
        _save(figure, path)


def _curves(log: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    """Return (points, 2) of step and value for every number of a log."""
    keys = dict.fromkeys(key for record in log for key in record)
    found = {
        key: np.array([(r["step"], r[key]) for r in log if isinstance(r.get(key), int | float)])
        for key in keys
        if key != "step" and not key.startswith("seconds")
    }
    return {key: points for key, points in found.items() if len(points) > 1}


def read_log(path: Path) -> list[dict[str, float]]:
    """Read a JSON-lines log; a last line that was cut by a stop is left out."""
    records = []
    plan = path.read_text().splitlines()
    for number, line in enumerate(plan):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(plan) - 1:
                raise ValueError(f"{path}, line {number + 1} is not JSON: {error}") from error
    return [record for record in records if "step" in record]


def _violin(axis: Axes, values: Floats, place: int, rng: np.random.Generator) -> None:
    colour = BLUE if values.mean() < 0 else RED
    if values.size > 2 and np.ptp(values) > 0:
        parts = axis.violinplot(
            [values], [place], orientation="horizontal", widths=0.85, showextrema=False
        )
        for body in parts["bodies"]:
            body.set(facecolor=colour, alpha=0.22)
    jitter = rng.uniform(-0.16, 0.16, values.size)
    axis.plot(values, place + jitter, ".", color=colour, markersize=2.5, alpha=0.6)
    axis.plot(values.mean(), place, "o", color=colour, markersize=6, markeredgecolor="white")


def _detail(reference: Floats) -> tuple[slice, slice]:
    """Choose a square a third as wide as the image, where the image varies the most.

    No step counts more than most do: a bright rim is not what one looks at.
    """
    side = max(min(reference.shape) // 3, 8)
    steps = np.abs(np.diff(reference, axis=0))[:, :-1] + np.abs(np.diff(reference, axis=1))[:-1]
    steps = np.minimum(steps, np.quantile(steps, 0.85))
    total = np.pad(steps.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    n = min(side, *steps.shape)
    sums = total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]
    x, y = np.unravel_index(int(sums.argmax()), sums.shape)
    return slice(int(x), int(x) + n), slice(int(y), int(y) + n)


def _frame(detail: tuple[slice, slice]) -> Rectangle:
    x, y = detail
    size = (y.stop - y.start, x.stop - x.start)
    return Rectangle((y.start, x.start), *size, fill=False, edgecolor="#ffd54a", linewidth=0.8)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, NDArray[Any]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    figure.savefig(part, dpi=130, format="png")
    os.replace(part, path)
