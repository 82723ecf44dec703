"""The report's part on physics: the price of order and steady state, and where every line lay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnet.masks.line_plan import Bool

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicsFindings:
    """What is shown of a simulated sequence."""

    table: Mapping[str, Any]  # sequence, echo_of_centre, rows; as in the scan's JSON
    echoes: Mapping[str, Sequence[int]]  # by order: the echo of every row (ky,), 0: not measured
    calibration: Bool  # (ky,)
    signals: Mapping[str, Sequence[float]]  # by tissue, of every echo in steady state


def physics_part(findings: PhysicsFindings) -> dict[str, Any]:
    """Return what the template fills in."""
    rows = findings.table["rows"]
    largest = max(row["nrmse"] for row in rows)
    train = max((max(echoes) for echoes in findings.echoes.values()), default=1)
    return {
        "sequence": findings.table["sequence"],
        "headline": _headline(rows),
        "parts": {
            title: [
                {**row, "bar": 100 * row["nrmse"] / largest, "best": row["played"], "spread": None}
                for row in rows
                if _is(row, part)
            ]
            for part, title in (
                ("none", "No decay, steady state"),
                ("order", "Order, in steady state"),
                ("start", "From rest, in the order played"),
            )
            if any(_is(row, part) for row in rows)
        },
        "train": train,
        "plots": {name: _dots(e, findings.calibration) for name, e in findings.echoes.items()},
        "n_ky": findings.calibration.size,
        "signals": findings.signals,
    }


def _is(row: Row, part: str) -> bool:
    return bool(row["part"] == part)


def _headline(rows: Sequence[Row]) -> str:
    alone = rows[0]["nrmse"]
    played = next(row for row in rows if row["part"] == "start" and row["played"])
    text = f"Undersampling alone costs an NRMSE of {alone:.4f}"
    ordered = [row for row in rows if row["part"] == "order" and row["played"]]
    if ordered:
        text += f"; with the decay of the train, {ordered[0]['name']}, it is {_with(ordered[0])}"
    return f"{text}; from rest, after {played['name']}, {_with(played)}."


def _with(row: Row) -> str:
    return f"{row['nrmse']:.4f} ({100 * row['price']:+.0f} %)"


def _dots(echoes: Sequence[int], calibration: Bool) -> dict[str, str]:
    """Draw the echo of every row as short bars: SVG paths by class, echo 1 at the bottom."""
    found = np.array(echoes)
    highest = int(found.max())
    kinds = {"cal": calibration & (found > 0), "line": ~calibration & (found > 0)}
    return {
        kind: "".join(f"M{row + 0.5:g} {highest - found[row]}v1" for row in np.flatnonzero(rows))
        for kind, rows in kinds.items()
    }
