"""Fit the guard of a sampler, and measure it on scans that did not set it.

    python -m training.guard.train_guard --config FILE

Ordinary scans are those of the cohorts that were drawn neither folded nor with a partial echo. The
odd ones are made of them (training.guard.cases). Numbers come from training cohorts, limits from
these and validation cohorts, and figures from test cohorts under every scan's own plan. All stands
in a JSON file: what `mnet.sampler.guard` reads, and the figures.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnet.sampler.guard import FOLDED, PARTIAL, Guard
from mnet.sampler.guard_numbers import Float
from training.config import read_config, told
from training.data.corpus import Sample, cohort_files, load
from training.fit.card import provenance
from training.guard.cases import CASES, case_of
from training.guard.fit import fit
from training.guard.looks import Looks, joined, look, plans

Rows = list[tuple[Float, int, bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run."""

    scans: str  # folder of cohorts
    cohorts: tuple[str, ...]  # what the sampler learned from
    validation: tuple[str, ...]
    tested: tuple[str, ...] = ()  # cohorts of others, for the figures alone
    parts: tuple[str, ...] = ()
    weights: str  # where the guard goes, without suffix
    accelerations: tuple[float, ...] = (2.0, 4.0, 8.0)  # beside the scans' own
    narrow: int = 8  # calibration lines where they are few
    every: int = 6  # every n-th training scan is made an odd one of every case
    alarms: float = 0.01  # share of ordinary scans on which each check may alarm
    n_least: int = 24  # training scans of a kind of channels that has an envelope
    seed: int = 0


def read_looks(
    config: Config, cohorts: Sequence[str], *, every: int, own: bool = False
) -> dict[str, dict[str, Looks]]:
    """Look at the scans of cohorts; by cohort and case, "" for ordinary ones.

    Every n-th scan is made an odd one of every case as well, none where n is 0; `own` looks under
    no other plan. What was drawn odd is "as drawn" of its case.
    """
    return {cohort: _cohort(config, cohort, every, own) for cohort in cohorts}


def _cohort(config: Config, cohort: str, every: int, own: bool) -> dict[str, Looks]:
    rows: dict[str, Rows] = {"": [], **{case: [] for case in CASES}}
    accelerations = () if own else config.accelerations
    for number, path in enumerate(cohort_files(Path(config.scans) / cohort)):
        sample = load(path)
        drawn = case_of(sample)
        if drawn:
            rows.setdefault(f"{drawn}, as drawn", []).extend(_looks(sample, (), config.narrow))
            continue
        rows[""] += _looks(sample, accelerations, config.narrow)
        if not every or number % every:
            continue
        rng = np.random.default_rng([config.seed, number, *cohort.encode()])
        for case, make in CASES.items():
            odd = make(sample, rng)
            if odd is not None:
                rows[case] += _looks(odd, accelerations, config.narrow)
    return {case: joined(found) for case, found in rows.items()}


def _looks(sample: Sample, accelerations: Sequence[float], narrow: int) -> Rows:
    n_coils = sample.kspace.shape[0]
    return [
        (look(sample, plan), n_coils, not i)
        for i, plan in enumerate(plans(sample, accelerations, narrow))
    ]


def together(found: Sequence[Looks]) -> Looks:
    """Return looks of several cohorts as one."""
    parts = [part for part in found if len(part)]
    if not parts:
        return joined([])
    return Looks(
        numbers=np.concatenate([part.numbers for part in parts]),
        n_coils=np.concatenate([part.n_coils for part in parts]),
        own=np.concatenate([part.own for part in parts]),
    )


def train(config: Config) -> dict[str, Any]:
    """Run; returns the figures."""
    training = read_looks(config, config.cohorts, every=config.every)
    validation = read_looks(config, config.validation, every=0 if config.tested else 1)
    ordinary, settled = (
        together([cases[""] for cases in by.values()]) for by in (training, validation)
    )
    odd = {case: together([cases[case] for cases in training.values()]) for case in CASES}
    guard = fit(ordinary, settled, odd, config.alarms, config.n_least)
    tested = read_looks(config, config.tested, every=1, own=True)
    figures = {
        "alarms on ordinary scans": {
            cohort: alarms(guard, cases[""].only(cases[""].own))
            for cohort, cases in (validation | tested).items()
        },
        "odd scans": {
            case: recognised(guard, together(found), case.removesuffix(", as drawn"))
            for case, found in _by_case(tested or validation).items()
        },
    }
    card = {
        "training": told(config),
        "n_scans": int(ordinary.own.sum()),
        "validation": figures,
        "guard": guard.to_json(),
        **provenance(config.parts),
    }
    Path(config.weights).with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    return figures


def _by_case(found: dict[str, dict[str, Looks]]) -> dict[str, list[Looks]]:
    drawn = [f"{case}, as drawn" for case in (PARTIAL, FOLDED)]
    return {
        case: [cases[case].only(cases[case].own) for cases in found.values() if case in cases]
        for case in (*CASES, *drawn)
    }


def verdicts(guard: Guard, looks: Looks) -> Counter[str]:
    """Count what a guard says of looks, "" for nothing."""
    return Counter(
        guard.judge(numbers, n)
        for numbers, n in zip(looks.numbers, looks.n_coils.tolist(), strict=True)
    )


def alarms(guard: Guard, looks: Looks) -> dict[str, Any]:
    """Return on which share of looks at ordinary scans a guard alarms, and why."""
    said = verdicts(guard, looks)
    quiet = said.pop("", 0)
    return {"n_scans": len(looks), "percent": _percent(len(looks) - quiet, len(looks))} | dict(said)


def recognised(guard: Guard, looks: Looks, case: str) -> dict[str, Any]:
    """Return which share of looks at an odd case is called so, and called anything."""
    said = verdicts(guard, looks)
    return {
        "n_scans": len(looks),
        "named_percent": _percent(said[case], len(looks)),
        "alarmed_percent": _percent(len(looks) - said[""], len(looks)),
    }


def _percent(n: int, of: int) -> float | None:
    return round(100 * n / of, 1) if of else None


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    print(json.dumps(train(read_config(Config, parser.parse_args().config)), indent=1))


if __name__ == "__main__":
    main()
