"""Whether masks adapt, and what that is worth: distances between masks, and shares of the gain."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mnet.masks.line_plan import Bool, LinePlan
from training.masks.diversity import distances
from training.table.bootstrap import Bootstrap, Floats, paired
from training.table.scored import Scored
from training.table.spec import Table

CONTROLS = ("uniform_random", "shuffled", "icd_oracle")


def adaptivity(
    spec: Table, scored: Sequence[Scored], masks: Iterable[tuple[str, float, Bool, LinePlan]]
) -> dict[str, Any]:
    """Return the controls of held-out scans.

    `masks` are (sampler, nominal acceleration, mask, plan) of every scan. `distances` is by sampler
    and acceleration; `gains` of the deployed sampler, in all folds and in each, with paired
    differences to the baseline and to masks of other scans, and a sentence.
    """
    cohorts = dict.fromkeys(s.cohort for s in scored)
    scopes = [("all", list(scored))]
    scopes += [(cohort.name, [s for s in scored if s.cohort == cohort]) for cohort in cohorts]
    return {
        "distances": _distances(masks),
        "gains": [
            found
            for judge in dict.fromkeys(entry.judge for entry in spec.rows)
            for scope, members in scopes
            for found in _gains(spec, scope, [s for s in members if s.entry.judge == judge])
        ],
    }


def _distances(masks: Iterable[tuple[str, float, Bool, LinePlan]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, float], list[tuple[Bool, LinePlan]]] = {}
    for sampler, acceleration, mask, plan in masks:
        groups.setdefault((sampler, acceleration), []).append((mask, plan))
    found = []
    for (sampler, acceleration), members in groups.items():
        apart = distances(members)
        if apart is not None:
            found.append({"sampler": sampler, "acceleration": acceleration, **apart})
    return found


def _gains(spec: Table, scope: str, scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Compare on the cohorts that hold the deployed sampler and the baseline."""
    by_sampler: dict[str, dict[str, Scored]] = {}
    for s in scored:
        by_sampler.setdefault(s.entry.sampler, {})[s.cohort.name] = s
    needed = (spec.deployed, spec.baseline)
    if spec.deployed == spec.baseline or any(name not in by_sampler for name in needed):
        return []
    cohorts = [name for name in by_sampler[spec.deployed] if name in by_sampler[spec.baseline]]
    if scope == "all" and len(cohorts) < 2:
        return []
    complete = [
        name
        for name in (*needed, *CONTROLS)
        if cohorts and all(cohort in by_sampler.get(name, {}) for cohort in cohorts)
    ]
    bootstrap = Bootstrap(n=spec.n_bootstrap, block=spec.block, seed=spec.seed)
    found = []
    everything = [by_sampler[spec.deployed][cohort] for cohort in cohorts]
    for acceleration in sorted({a for s in everything for a in s.accelerations}):
        values: dict[str, list[Floats]] = {
            name: [v for cohort in cohorts for v in by_sampler[name][cohort].nrmse(acceleration)]
            for name in complete
        }
        means = {name: float(np.concatenate(v).mean()) for name, v in values.items()}
        part = shares(means, spec.deployed, spec.baseline)
        found.append(
            {
                "scope": scope,
                "reconstructor": everything[0].entry.reconstructor,
                "post_trained": everything[0].entry.post_trained,
                "noise": everything[0].entry.noise,
                "acceleration": acceleration,
                "n_subjects": len({name for s in everything for name in s.subjects.values()}),
                **part,
                "against": {
                    name: paired(values[spec.deployed], values[name], bootstrap)
                    for name in (spec.baseline, "shuffled")
                    if name in values
                },
                "sentence": sentence(part, spec.deployed, spec.baseline),
            }
        )
    return found


def shares(nrmse: Mapping[str, float], adaptive: str, fixed: str) -> dict[str, Any]:
    """Split the gain over uniform random masks; mean NRMSE by sampler, on the same scans.

    The part from choosing a family of masks is that of the best fixed mask, the rest is from
    adapting to the scan. What is absent, or a share of nothing, is None.
    """
    best, ours = nrmse[fixed], nrmse[adaptive]
    uniform, oracle = nrmse.get("uniform_random"), nrmse.get("icd_oracle")
    whole = None if uniform is None else uniform - ours
    gap = None if oracle is None else best - oracle
    return {
        "nrmse": {name: nrmse[name] for name in (adaptive, fixed)}
        | {
            name: nrmse[name]
            for name in ("uniform_random", "shuffled", "icd_oracle")
            if name in nrmse
        },
        "gain_over_uniform_random_percent": (
            None if uniform is None else 100 * (1 - ours / uniform)
        ),
        "share_from_family": None if uniform is None or not whole else (uniform - best) / whole,
        "share_from_adapting": None if not whole else (best - ours) / whole,
        "share_of_gap_closed": None if gap is None or gap <= 0 else (best - ours) / gap,
    }


def sentence(found: Mapping[str, Any], adaptive: str, fixed: str) -> str:
    """Say in words what `shares` found."""
    mean = found["nrmse"]
    change = 100 * (mean[adaptive] / mean[fixed] - 1)
    text = (
        f"{adaptive} has a mean NRMSE of {mean[adaptive]:.4f}, {abs(change):.2f} % "
        f"{'below' if change < 0 else 'above'} {fixed} ({mean[fixed]:.4f})"
    )
    if found["share_from_family"] is not None:
        text += (
            f"; of its gain of {found['gain_over_uniform_random_percent']:.1f} % over uniform "
            f"random, {100 * found['share_from_family']:.1f} % come from choosing the family of "
            f"masks (uniform random to {fixed}) and {100 * found['share_from_adapting']:.1f} % "
            "from adapting to the scan"
        )
    if "shuffled" in mean:
        other = 100 * (mean[adaptive] / mean["shuffled"] - 1)
        text += f"; against masks of other scans its NRMSE changes by {other:+.2f} %"
    if found["share_of_gap_closed"] is not None:
        text += (
            f"; {100 * found['share_of_gap_closed']:.0f} % of the gap from {fixed} to the ICD "
            "oracle is closed"
        )
    return text + "."
