"""Fuzzing that knows the structure of what it damages: readers give errors of ours, and soon."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.torture.effort import Effort, Outcome
from tests.torture.targets import Target, targets


def run(effort: Effort) -> Iterator[Outcome]:
    """Damage sound input of every reader."""
    level = logging.getLogger("gadgets").level
    logging.getLogger("gadgets").setLevel(logging.CRITICAL)  # they warn of each damaged case
    try:
        with TemporaryDirectory() as folder:
            for target in targets(Path(folder)):
                yield tried(target, effort)
    finally:
        logging.getLogger("gadgets").setLevel(level)


def tried(target: Target, effort: Effort) -> Outcome:
    """Read damaged input many times; anything but an answer or an error of ours is a fault."""
    outcome = Outcome(what=target.name)
    refused = 0
    for number in range(effort.times(target.full, target.short)):
        draw = effort.random(target.name, number)
        case = target.damage(draw.choice(target.seeds), draw)
        began = time.process_time()
        try:
            target.read(case)
        except target.errors:
            refused += 1
        except Exception as error:
            said = f"{type(error).__name__}: {error}"[:200]
            outcome.fault(f"case {number} of seed {effort.seed}: {said}")
        if time.process_time() - began > target.slow_s:
            outcome.fault(f"case {number} of seed {effort.seed}: slower than {target.slow_s} s")
        outcome.n += 1
    outcome.figures["refused"] = refused
    return outcome
