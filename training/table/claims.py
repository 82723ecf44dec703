"""What the deployed sampler is held to, and whether it holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.table.spec import Table


def claims(spec: Table, folds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the deployed sampler is held to under MoDL, in every fold of a held-out subject.

    `value` is its mean NRMSE over that of the other sampler, except against the baseline, where it
    is the mean paired difference in percent; met where not above `limit`.
    """
    found = []
    for ours in folds:
        if (ours["sampler"], ours["reconstructor"], ours["noise"]) != (
            spec.deployed,
            "modl",
            "measured",
        ) or not ours["held_out"]:
            continue
        at_4 = ours["acceleration"] == 4
        for kind, other, limit in (
            ("must", "uniform_random", 0.75 if at_4 else None),
            ("must", "variable_density", 0.90),
            ("must", "loupe", 1.0),
            ("must", spec.baseline, 0.3),
            ("aim", spec.baseline, -1.0 if at_4 else -2.0),
        ):
            same = [row for row in folds if row["sampler"] == other and _alike(row, ours)]
            if not same or other == spec.deployed or limit is None:
                continue
            paired_percent = other == spec.baseline
            value = (
                ours["paired"]["mean_percent"]
                if paired_percent
                else ours["nrmse"] / same[0]["nrmse"]
            )
            found.append(
                {
                    "claim": f"{spec.deployed} against {other}",
                    "kind": kind,
                    "fold": ours["fold"],
                    "subjects": ours["subjects"],
                    "acceleration": ours["acceleration"],
                    "post_trained": ours["post_trained"],
                    "unit": "% paired difference" if paired_percent else "ratio of mean NRMSE",
                    "value": value,
                    "limit": limit,
                    "met": value <= limit,
                }
            )
    return found


def _alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    keys = ("reconstructor", "post_trained", "noise", "acceleration", "subjects", "fold")
    return all(a[key] == b[key] for key in keys)
