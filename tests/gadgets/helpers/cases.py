"""The small files of `shared/cases`, reconstructed here and compared with their object."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gadgets.files.source import Source, open_source
from gadgets.mrd.items import Image
from gadgets.pipeline.build import load, parse
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from mnet.score.image_quality import score

# All files are of one phantom, and this is all of its k-space in one coil array of four.
WHOLE = "h5_2d.h5"


def images_of(source: Source, config: str = "cg_sense.xml") -> tuple[list[Image], dict[str, int]]:
    """Return the images of a file, and what the scan counted."""
    scan = Scan(geometry=source.geometry)
    out = run(parse(load(config)), scan, source.acquisitions)
    return [item for item in out if isinstance(item, Image)], dict(scan.counts)


def magnitude(image: Image) -> np.ndarray[Any, Any]:
    """Return an image (x, y) as it was made, without the scale of its storage."""
    slope = float(image.meta.get("RescaleSlope", "1"))
    return np.abs(image.data[0, 0]).T.astype(np.float32) * np.float32(slope)


def nrmse(image: Image, truth: Image) -> float:
    """Return the NRMSE of an image against another, one scale fitted."""
    one, other = (torch.from_numpy(magnitude(i))[None] for i in (image, truth))
    return float(score(one, other, other).nrmse[0])


def against_the_phantom(path: Path, source: Source, config: str = "cg_sense.xml") -> list[float]:
    """Return the NRMSE of every image of a file against the phantom's."""
    (truth,) = images_of(open_source(path.parent / WHOLE))[0]
    return [nrmse(image, truth) for image in images_of(source, config)[0]]
