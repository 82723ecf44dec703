"""From the scores of scans to the table: means, intervals, paired differences, claims.

Rows are compared on the same scans and under the same reconstructor alone. Pooled rows are over all
held-out subjects that a row was evaluated on; `folds` has the same for every subject by itself.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mnet.masks.line_plan import Bool, LinePlan
from training.table.adaptivity import adaptivity
from training.table.bootstrap import METHOD, Bootstrap, paired
from training.table.claims import claims
from training.table.scored import Figures, Scored
from training.table.spec import Entry, Table

MEANS = (
    "nrmse",
    "nrmse_rss",
    "psnr",
    "ssim",
    "hfen",
    "acceleration_acquirable",
    "acceleration_encoded",
    "paper_nrmse",
    "paper_psnr",
    "paper_ssim",
    "fastmri_nmse",
    "fastmri_psnr",
    "fastmri_ssim",
)


def table(
    spec: Table, scored: Sequence[Scored], masks: Iterable[tuple[str, float, Bool, LinePlan]]
) -> dict[str, Any]:
    """Return the whole table, ready for JSON; `masks` as `training.table.adaptivity` wants them."""
    tests = [s for s in scored if s.cohort.held_out]
    rows = _rows(spec, tests, fold_name="all")
    folds = [
        row
        for cohort in spec.cohorts
        for row in _rows(spec, [s for s in scored if s.cohort == cohort], fold_name=cohort.fold)
    ]
    return {
        "rows": rows,
        "deployed": spec.deployed,
        "baseline": spec.baseline,
        "folds": folds,
        "adaptivity": adaptivity(spec, tests, masks),
        "subjects": _subjects(spec, scored),
        "claims": claims(spec, folds),
        "intervals": f"{METHOD} ({spec.block} scans a block, {spec.n_bootstrap} draws)",
    }


def _rows(spec: Table, scored: Sequence[Scored], fold_name: str) -> list[dict[str, Any]]:
    rows = []
    bootstrap = Bootstrap(n=spec.n_bootstrap, block=spec.block, seed=spec.seed)
    accelerations = sorted({a for s in scored for a in s.accelerations})
    for acceleration in accelerations:
        for entry in spec.rows:
            mine = [s for s in scored if s.entry == entry and acceleration in s.accelerations]
            if mine:
                rows.append(
                    _describe(entry, acceleration)
                    | _means([group for s in mine for group in s.at(acceleration)], bootstrap)
                    | _where(mine, acceleration, fold_name)
                    | {"paired": _paired(spec, scored, mine, acceleration, bootstrap)}
                )
    return rows


def _describe(entry: Entry, acceleration: float) -> dict[str, Any]:
    return {
        "sampler": entry.sampler,
        "reconstructor": entry.reconstructor,
        "post_trained": entry.post_trained,
        "noise": entry.noise,
        "acceleration": acceleration,
        "acceleration_nominal": acceleration,
    }


def _where(mine: Sequence[Scored], acceleration: float, fold_name: str) -> dict[str, Any]:
    folds = {s.cohort.fold for s in mine}
    names = {
        s.subjects[number]
        for s in mine
        for number, found in s.scans.items()
        if found["acceleration"] == acceleration
    }
    return {
        "cohorts": [s.cohort.name for s in mine],
        "fold": folds.pop() if len(folds) == 1 else fold_name,
        "subjects": sorted(names),
        "n_subjects": len(names),
        "held_out": all(s.cohort.held_out for s in mine),
    }


def _paired(
    spec: Table,
    scored: Sequence[Scored],
    mine: Sequence[Scored],
    acceleration: float,
    bootstrap: Bootstrap,
) -> dict[str, Any] | None:
    """Compare with the baseline on the cohorts where it was judged alike."""
    ours, theirs = [], []
    for s in mine:
        for base in scored:
            if base.cohort == s.cohort and (base.entry.sampler, base.entry.judge) == (
                spec.baseline,
                s.entry.judge,
            ):
                ours += s.nrmse(acceleration)
                theirs += base.nrmse(acceleration)
    return paired(ours, theirs, bootstrap) if ours else None


def _means(subjects: Sequence[Sequence[Figures]], bootstrap: Bootstrap) -> dict[str, Any]:
    every = [figures for subject in subjects for figures in subject]
    nrmse = [np.array([f["nrmse"] for f in subject]) for subject in subjects]
    return {
        **{name: float(np.mean([f[name] for f in every])) for name in MEANS},
        "ci95": list(bootstrap.interval(*nrmse)),
        "n_scans": len(every),
    }


def _subjects(spec: Table, scored: Sequence[Scored]) -> list[dict[str, Any]]:
    by_cohort = {s.cohort.name: s for s in scored}
    found = []
    for cohort in spec.cohorts:
        members = by_cohort[cohort.name].subjects.values() if cohort.name in by_cohort else []
        for subject in sorted(set(members)):
            n = list(members).count(subject)
            about = {"cohort": cohort.name, "fold": cohort.fold, "held_out": cohort.held_out}
            found.append({"subject": subject, **about, "n_scans": n})
    return found
