"""What the order of lines and the way to the steady state cost, beside undersampling.

The scan's own masks and noise, reconstructed with the same model from lines that were measured at
other echoes and in other shots. The reference is that of the scan: all lines at the echo of k = 0,
in steady state. Maps come from each one's own calibration, as they would in a scan.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mnet.masks.line_plan import Bool
from mnet.recon.modl import MoDL
from mnet.score.comparison import Volume, maps, reconstruct, rss
from mnet.score.image_quality import score
from mnet.sequence.echo_order import RULES, EchoOrder
from mnet.weight_files import load_weights

from ..errors import ConfigError
from ..mrd.geometry import Geometry
from ..mrd.items import Acquisition
from .frames import lines_in_place
from .scan_result import Result
from .simulated_lines import SimulatedLines

DUMMIES = {"tse": (0, 1, 2), "gre": (0, 100, 200)}
UNIT = {"tse": "dummy shots", "gre": "dummy pulses"}


def prices(
    result: Result, geometry: Geometry, progress: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """Reconstruct the scan's masks from other lines; one row each, ready for JSON.

    A row has a `part` (none, order, start), a `name`, whether it is `played` (as this scan was),
    the mean `nrmse` and that `per_slice`, and `price`, how much the error is above that of
    undersampling alone, as a fraction.
    """
    lines = result.lines
    if lines is None:
        raise ValueError("the lines of this scan were recorded: no order of them has a price")
    model, _ = load_weights("modl")
    if not isinstance(model, MoDL):
        raise ConfigError("the weights 'modl' are not a MoDL")
    masks = result.masks
    rows: list[dict[str, Any]] = []

    def add(part: str, name: str, acquired: list[Acquisition], played: bool = False) -> None:
        per_slice = _errors(result, geometry, model, masks, [*lines.noise, *acquired])
        rows.append({"part": part, "name": name, "played": played, "per_slice": per_slice})
        if progress is not None:
            progress(name)

    order, dummies, physics = result.order, result.dummies, lines.physics
    add("none", "undersampling alone", _without_decay(lines, masks, result))
    rules = RULES if order.train > 1 else ()
    for rule in sorted(rules, key=lambda rule: rule != order.rule):
        acquired = shots_of(lines, masks, replace(order, rule=rule), result)
        add("order", rule, acquired, played=rule == order.rule)
    if order.train > 1:
        acquired = shots_of(lines, masks, order, result, corrected=True)
        add("order", f"{order.rule}, gain corrected", acquired)
    for n in sorted({dummies, *DUMMIES[physics.kind]}):
        acquired = shots_of(
            lines, masks, order, result, dummies=n, corrected=physics.gain_correction
        )
        add("start", f"{n} {UNIT[physics.kind]}", acquired, played=n == dummies)
    alone = float(np.mean(rows[0]["per_slice"]))
    for row in rows:
        row["nrmse"] = float(np.mean(row["per_slice"]))
        row["price"] = row["nrmse"] / alone - 1
    return rows


def shots_of(
    lines: SimulatedLines,
    masks: Bool,
    order: EchoOrder,
    result: Result,
    *,
    dummies: int | None = None,
    corrected: bool = False,
) -> list[Acquisition]:
    """Return the lines of all slices in an order; without `dummies`, in steady state."""
    plan = result.volume.plan
    measured: list[Acquisition] = []
    for entry, mask in zip(result.json["slices"], masks, strict=True):
        slice_ = lines.slice(entry["slice"], settled=dummies is None, corrected=corrected)
        for _ in range(dummies or 0):
            slice_.dummy()
        for shot in (*order.calibration(plan), *order.adaptive(mask, plan)):
            measured += slice_.shot(shot)
    return measured


def _without_decay(lines: SimulatedLines, masks: Bool, result: Result) -> list[Acquisition]:
    amplitudes = lines.steady[:, result.order.centre_echo(result.volume.plan) - 1]
    return [
        lines.line(entry["slice"], int(row), amplitudes, 1.0)
        for entry, mask in zip(result.json["slices"], masks, strict=True)
        for row in np.flatnonzero(mask)
    ]


@torch.inference_mode()
def _errors(
    result: Result, geometry: Geometry, model: MoDL, masks: Bool, acquired: list[Acquisition]
) -> list[float]:
    """Return the NRMSE (slices,) of the images of some lines."""
    truth: Volume = result.volume
    slices = [int(entry["slice"]) for entry in result.json["slices"]]
    kspace = lines_in_place(acquired, geometry, slices)
    volume = replace(truth, kspace=torch.from_numpy(kspace))
    images = reconstruct(volume, maps(volume), masks, "modl", model)
    found: list[float] = score(images, result.reference, rss(truth)).nrmse.tolist()
    return found
