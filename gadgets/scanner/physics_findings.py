"""What the report says of a scan's physics: where every line lay, and the signal that was there."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnet.sequence.echo_order import IDLE, RULES, EchoOrder, Rows

from ..report.physics import PhysicsFindings
from .scan_result import Result


def physics_findings(result: Result, rows: Sequence[dict[str, Any]]) -> PhysicsFindings:
    """Gather the prices, the echoes of the first slice's lines by order, and the signals."""
    lines = result.lines
    assert lines is not None
    plan, mask = result.volume.plan, result.masks[0]
    rules = RULES if result.order.train > 1 else ()
    echoes: dict[str, Sequence[int]] = {}
    for rule in sorted(rules, key=lambda rule: rule != result.order.rule):
        order = EchoOrder(
            rule=rule, train=result.order.train, effective_echo=result.order.effective_echo
        )
        shots = np.vstack([order.calibration(plan), order.adaptive(mask, plan)])
        echoes[rule] = _echoes(shots, plan.acquirable.size)
    return PhysicsFindings(
        table={
            "sequence": sentence(result),
            "echo_of_centre": result.order.centre_echo(plan),
            "rows": list(rows),
        },
        echoes=echoes,
        calibration=plan.calibration,
        signals={
            tissue.name: [float(abs(value)) for value in signal]
            for tissue, signal in zip(lines.tissues, lines.steady, strict=True)
        },
    )


def sentence(result: Result) -> str:
    """Say which sequence was simulated."""
    assert result.lines is not None
    physics, protocol = result.lines.physics, result.lines.protocol
    if physics.kind == "gre":
        return f"RF-spoiled gradient echo, TR {protocol.tr_ms:g} ms, {physics.flip_deg:g} degrees"
    return (
        f"turbo spin echo, {result.order.train} echoes of {physics.echo_spacing_ms:g} ms, "
        f"refocused by {physics.refocusing_deg:g} degrees, TR {protocol.tr_ms:g} ms, k = 0 at echo "
        f"{result.order.centre_echo(result.volume.plan)}"
    )


def _echoes(shots: Rows, n: int) -> list[int]:
    """Return the echo (n,) of every row, from 1; 0 where it is not measured."""
    echoes = np.zeros(n, dtype=int)
    for echo, rows in enumerate(shots.T, 1):
        echoes[rows[rows != IDLE]] = echo
    return [int(echo) for echo in echoes]
