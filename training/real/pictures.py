"""Pictures of real scans: the reference, every method with its error, and inserted objects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from training.real.methods import Result
from training.real.scans import RealScan
from training.real.scores import fit
from training.real.sections import called
from training.table.figures import ERROR_GAIN, Shown, draw_reconstructions

Picture = tuple[Path, str]  # PNG file and caption
Pair = tuple[Tensor, Tensor]  # images (x, y) without objects and with them
GAIN = 4  # of the differences with and without objects


def stem(scan: RealScan) -> str:
    """Return how the pictures of a scan begin."""
    return f"{Path(scan.file).stem}-{scan.slice}-{scan.sample.acceleration:g}x"


def draw_methods(folder: Path, scan: RealScan, results: Mapping[str, Result]) -> Picture:
    """Draw every method's image of a scan, a detail, and its error."""
    reference = scan.reference.abs().numpy()
    shown = [
        Shown(title=called(name), image=_scaled(result), figures=result.figures)
        for name, result in results.items()
    ]
    path = folder / f"{stem(scan)}.png"
    draw_reconstructions(path, reference, shown)
    return path, (
        f"{_about(scan)}. Images, detail, and errors x {ERROR_GAIN} in the same window, under the "
        f"deployed mask: {scan.plan.n_lines} of {int(scan.plan.acquirable.sum())} lines."
    )


def _scaled(result: Result) -> NDArray[Any]:
    image = result.image * fit(result.image, result.scan.reference)
    magnitude: NDArray[Any] = image.abs().numpy()
    return magnitude


def draw_inserted(
    folder: Path,
    scan: RealScan,
    truth: Pair,
    images: Mapping[str, Pair],
    there: tuple[slice, slice],
    about: str,
) -> Picture:
    """Draw a detail with objects, and what of it is the objects, as each method has it.

    `truth` is of all lines, `images` are by method, `there` is the rectangle of the objects.
    """
    columns = {"reference": truth, **images}
    white = float(np.quantile(truth[1].abs().numpy()[there], 0.998))
    aspect = (there[0].stop - there[0].start) / (there[1].stop - there[1].start)
    figure = Figure(figsize=(2.1 * len(columns), 4.2 * aspect + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(columns), squeeze=False)
    for column, (name, (without, within)) in enumerate(columns.items()):
        axes[0, column].imshow(within.abs().numpy()[there], cmap="gray", vmin=0, vmax=white)
        axes[0, column].set_title(called(name), fontsize=9)
        # along the phase of the anatomy, so that darker objects are dark
        difference = ((within - without) * truth[0].sgn().conj()).real.numpy()[there]
        axes[1, column].imshow(
            difference, cmap="gray", vmin=-white / 2 / GAIN, vmax=white / 2 / GAIN
        )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    path = folder / f"{stem(scan)}-inserted.png"
    figure.savefig(path, dpi=130, format="png")
    return path, (
        f"{_about(scan)}, inserted: {about}. Above the image with the objects, below "
        f"what they change, x {GAIN}."
    )


def _about(scan: RealScan) -> str:
    return f"{scan.file}, slice {scan.slice}, acceleration {scan.sample.acceleration:g}"
