"""What a played scan gave: its figures, its images, and what both are compared with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mnet.masks.line_plan import Bool
from mnet.score.comparison import Volume
from mnet.sequence.echo_order import EchoOrder

from ..mrd.items import Image
from .simulated_lines import SimulatedLines


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
    order: EchoOrder
    dummies: int
    lines: SimulatedLines | None  # what computed the lines, None where they were recorded

    @property
    def masks(self) -> Bool:
        """The masks (n, ky) in force during the scan."""
        plan = self.volume.plan
        masks = np.zeros((self.volume.n_slices, plan.acquirable.size), dtype=bool)
        for mask, entry in zip(masks, self.json["slices"], strict=True):
            mask[np.asarray(entry["mask"], dtype=int) + plan.center - self.center] = True
        return masks


def in_a_sentence(summary: dict[str, Any]) -> str:
    """Say how a scan went: images, lines, latency, fallbacks, error, and what its record proves."""
    latency = summary["mask_latency_ms_median"]
    in_time = "masks in time" if summary["fallbacks"] < summary["n_slices"] else "no mask in time"
    answered = in_time if latency is None else f"masks after {latency:.1f} ms (median)"
    record = summary.get("record", {})
    proof = ""
    if "only_asked_lines" in record:
        proof = (
            "; the record proves that only asked-for lines arrived"
            if record["only_asked_lines"]
            else f"; {record['unasked_lines']} UNASKED LINES ARRIVED"
        )
    return (
        f"{summary['images']} of {summary['n_slices']} images, {summary['n_lines']} of "
        f"{summary['n_acquirable']} lines, {answered}, {summary['fallbacks']} fallbacks, "
        f"NRMSE {summary['nrmse']:.4f}{proof}"
    )
