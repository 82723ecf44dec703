"""What a played scan gave: its figures, its images, and what both are compared with."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mnet.score.comparison import Volume

from ..mrd.items import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A scan: its stable JSON, and what a report shows."""

    json: dict[str, Any]
    center: int  # ky counter of k = 0
    volume: Volume
    csm: Tensor  # (n, coils, x, ky) from the calibration lines
    reference: Tensor  # (n, x, y) magnitudes of all lines
    images: Tensor  # (n, x, y) magnitudes as received, in the order of the volume
    wire: list[Image]
