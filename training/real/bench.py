"""Play a real scan: all samplers under two methods, all methods under the deployed mask.

Every row is one scan, one sampler and one method; `full` takes every sampler with every method.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mnet.masks.line_plan import Bool
from mnet.sampler.choosing import Choosing
from training.real.masks import DEPLOYED, Candidates, draws, oracle_candidates
from training.real.methods import Method, Result, best
from training.real.scans import RealScan
from training.real.scores import FIGURES

JUDGES = ("modl", "cg_sense")  # under these all samplers are compared
Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Player:
    """Samplers and methods to play scans through."""

    methods: Sequence[Method]
    sampler: Choosing
    n_seeds: int = 3
    full: bool = False

    def play(self, scan: RealScan) -> list[Row]:
        """Return the rows of a scan."""
        drawn = draws(scan, self.sampler, self.n_seeds)
        rows = []
        for method in self.methods:
            scored = _Scored(method=method, scan=scan)
            wide = self.full or method.name in JUDGES
            for sampler in drawn if wide else (DEPLOYED,):
                results = [scored(mask) for mask in drawn[sampler]]
                rows.append(_row(scan, sampler, method.name, results, results[0].setting))
            if wide:
                for oracle, candidates in oracle_candidates(scan, self.sampler).items():
                    which, result = scored.best_of(candidates)
                    rows.append(_row(scan, oracle, method.name, [result], which))
        return rows

    def images(self, scan: RealScan) -> dict[str, Result]:
        """Return every method's result under the deployed mask, by name."""
        (mask,) = draws(scan, self.sampler, 1)[DEPLOYED]
        return {method.name: best(method, scan, mask) for method in self.methods}


@dataclass(kw_only=True)
class _Scored:
    """Results of one method on one scan; masks that samplers share are reconstructed once."""

    method: Method
    scan: RealScan
    known: dict[bytes, Result] = field(default_factory=dict)

    def __call__(self, mask: Bool) -> Result:
        key = np.packbits(mask).tobytes()
        if key not in self.known:
            self.known[key] = best(self.method, self.scan, mask)
        return self.known[key]

    def best_of(self, candidates: Candidates) -> tuple[str, Result]:
        results = {name: self(mask) for name, mask in candidates.items()}
        return min(results.items(), key=lambda entry: entry[1].nrmse)


def _row(scan: RealScan, sampler: str, method: str, results: Sequence[Result], which: str) -> Row:
    """Write one row: means over the draws of a random sampler; `which` is the setting or mask."""
    return {
        "file": scan.file,
        "subject": scan.subject,
        "slice": scan.slice,
        "acceleration": scan.sample.acceleration,
        "n_lines": scan.plan.n_lines,
        "sampler": sampler,
        "method": method,
        "which": which,
        "n_draws": len(results),
        **{name: float(np.mean([r.figures[name] for r in results])) for name in FIGURES},
    }
