"""`make torture`: what a host and its readers bear. Prints each part, and ends with 1 on a fault.

    python -m tests.torture                      the full run: hours
    python -m tests.torture --short              what CI does: seconds
    python -m tests.torture --only fuzz --seed 7

A part is a module `part_NAME.py` of this folder whose `run(effort)` gives an `Outcome` for each
thing that it tries; a new file is a new part. A fault is told with what makes it happen again.
"""

import argparse
import importlib
import logging
import sys
from pathlib import Path

from tests.torture.effort import Effort

ORDER = ("kills", "cuts", "fuzz", "soak", "concurrency", "idle", "slow_readers")


def available() -> list[str]:
    """Return the parts of this folder, in the order in which they are printed."""
    found = {path.stem.removeprefix("part_") for path in Path(__file__).parent.glob("part_*.py")}
    return [name for name in ORDER if name in found] + sorted(found - set(ORDER))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of hours")
    parser.add_argument("--only", nargs="+", choices=available(), default=available())
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    options = parser.parse_args(arguments)
    effort = Effort(short=options.short, seed=options.seed)
    failed = False
    for name in options.only:
        print(f"== {name}", flush=True)
        for outcome in importlib.import_module(f"tests.torture.part_{name}").run(effort):
            print(f"  {outcome}", flush=True)
            failed = failed or bool(outcome.faults)
    return int(failed)


if __name__ == "__main__":
    logging.getLogger("gadgets").setLevel(logging.CRITICAL)  # thousands of scans fail on purpose
    sys.exit(main())
