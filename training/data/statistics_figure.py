"""One picture of simulated against real scans: every statistic, and energy by ky."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.data.corpus import Sample
from training.data.statistics import N_BINS, Statistics, energy, statistics

_LOGARITHMIC = {"noise", "high_share", "phase_slope", "phase_detail", "n_coils", "n_ky"}
_GREY = "#b8c4d4"


def draw(path: Path, simulated: Sequence[Sample], real: Mapping[str, Sample]) -> None:
    """Draw simulated scans as distributions and every real one as a line of its own, as PNG."""
    figure = Figure(figsize=(20, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 6).flatten()
    drawn = [statistics(sample) for sample in simulated]
    measured = [statistics(sample) for sample in real.values()]
    for axis, field in zip(axes, fields(Statistics), strict=False):
        _histogram(axis, field.name, drawn, measured)
    _spectra(axes[-2], simulated, list(real.values()))
    for number, name in enumerate(real):
        axes[-1].plot([], [], color=f"C{number}", label=name)
    axes[-1].legend(loc="center", fontsize=7, title=f"{len(drawn)} simulated (grey) and real scans")
    axes[-1].set_axis_off()
    figure.savefig(path, dpi=80)


def _histogram(
    axis: Axes, name: str, drawn: Sequence[Statistics], measured: Sequence[Statistics]
) -> None:
    values = np.array([getattr(s, name) for s in drawn], dtype=float)
    points = np.array([getattr(s, name) for s in measured], dtype=float)
    low, high = np.min([*values, *points]), np.max([*values, *points])
    bins = np.linspace(low, high, 25)
    if name in _LOGARITHMIC:
        bins = np.geomspace(max(low, 1e-5), high, 25)
        axis.set_xscale("log")
    axis.hist(values, bins=bins, color=_GREY)
    for number, point in enumerate(points):
        axis.axvline(point, color=f"C{number}", linewidth=1.2)
    axis.set_title(name.replace("_", " "), fontsize=9)
    axis.set_yticks([])
    axis.tick_params(axis="x", which="minor", labelbottom=False)


def _spectra(axis: Axes, simulated: Sequence[Sample], real: Sequence[Sample]) -> None:
    where = (np.arange(N_BINS) + 0.5) / N_BINS
    drawn = np.array([energy(s) for s in simulated]).clip(1e-8)
    for low, high in ((5, 95), (25, 75)):
        axis.fill_between(where, *np.percentile(drawn, (low, high), axis=0), color=_GREY, alpha=0.6)
    for number, sample in enumerate(real):
        shares = energy(sample).clip(1e-8)
        axis.plot(where, shares, color=f"C{number}", linewidth=1.2)
    axis.set_yscale("log")
    axis.set_title("energy by |ky|, of its largest", fontsize=9)
