"""Small protocols, their courses, and sequences of them."""

from typing import Any

import numpy as np

from gadgets.pulseq.course import Course, Part
from gadgets.pulseq.limits import LIMITS, Platform
from gadgets.pulseq.protocol import Protocol, stack
from gadgets.pulseq.write import sequence_of
from mnet.masks.densities import variable_density
from mnet.masks.line_plan import LinePlan
from mnet.sequence.echo_order import EchoOrder, default_rule

OBLIQUE = (20.0, -35.0, 65.0)
STRAIGHT = (0.0, 0.0, 0.0)


def protocol(kind: str, n: int = 128, n_slices: int = 3, **changes: Any) -> Protocol:
    tse = kind == "tse"
    usual = {
        "kind": kind,
        "matrix": (n, n),
        "slices_mm": stack(n_slices, 5.0),
        "tr_ms": 3000.0 if tse else 12.0,
        "echo_ms": 9.6 if tse else None,
        "train": 8 if tse else 1,
        "flip_deg": 180.0 if tse else 15.0,
        "dummies": 1 if tse else 5,
    }
    return Protocol(**(usual | changes))


def course(protocol: Protocol, part: Part = "whole", acceleration: float = 4.0) -> Course:
    """Different masks for every slice."""
    rows = np.ones(protocol.matrix[1], dtype=bool)
    plan = LinePlan.of(rows, acceleration, group_size=protocol.train)
    slices = range(len(protocol.slices_mm))
    return Course(
        plan=plan,
        order=EchoOrder(rule=default_rule(protocol.train), train=protocol.train),
        masks={i: variable_density(plan, np.random.default_rng(i)) for i in slices},
        part=part,
        dummies=protocol.dummies,
        interleaved=protocol.interleaved,
    )


def drawn(protocol: Protocol, platform: Platform = "siemens", **options: Any) -> Any:
    labels = options.pop("labels", True)
    return sequence_of(protocol, course(protocol, **options), LIMITS[platform], labels=labels)
