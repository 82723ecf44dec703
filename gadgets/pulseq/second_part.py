"""The second of two scans: decided masks as rows of a protocol, if they are of this one."""

from collections.abc import Sequence

import numpy as np

from mnet.masks.line_plan import Bool, LinePlan

from ..errors import ConfigError
from ..mask.mask_file import MaskFile
from .protocol import Protocol


def planned(masks: MaskFile, protocol: Protocol) -> tuple[LinePlan, dict[int, Bool]]:
    """Return the plan of decided masks, and these by slice.

    Raises ConfigError where they are of another protocol.
    """
    hello, n = masks.hello, protocol.matrix[1]
    for name, wanted, got in (
        ("lines along phase encoding", n, hello.ky_max - hello.ky_min + 1),
        ("first line", 0, hello.ky_min),
        ("centre of k-space", n // 2, hello.center),
        ("slices", len(protocol.slices_mm), len(masks.slices)),
        ("echoes of a train", protocol.train, hello.group_size),
    ):
        if wanted != got:
            raise ConfigError(
                f"{name}: the protocol has {wanted}, the masks have {got}; give the options of the "
                "first scan again"
            )
    plan = LinePlan(
        acquirable=_rows(hello.acquirable, n),
        calibration=_rows(hello.calibration, n),
        n_lines=hello.n_lines,
        center=n // 2,
    )
    return plan, {one.slice: _rows(one.counters, n) for one in masks.slices}


def _rows(counters: Sequence[int], n: int) -> Bool:
    rows = np.zeros(n, dtype=bool)
    rows[list(counters)] = True
    return rows
