"""Means over subjects: of slices first, then of a subject's files, then of subjects.

A person with many slices, or with two files, counts once. People and phantoms are never mixed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
OF_PEOPLE, OF_PHANTOMS = "people", "phantoms"


def is_phantom(subject: str) -> bool:
    """Say whether a subject is no person, which files of phantoms tell by their name."""
    return subject.startswith("phantom")


def mean(rows: Iterable[Row], figure: str) -> float | None:
    """Return the mean of a figure over subjects; None where no row has it."""
    files: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row[figure] is not None:
            files.setdefault((row["subject"], row["file"]), []).append(row[figure])
    if not files:
        return None
    subjects: dict[str, list[float]] = {}
    for (subject, _), values in files.items():
        subjects.setdefault(subject, []).append(float(np.mean(values)))
    return float(np.mean([np.mean(values) for values in subjects.values()]))


def groups(rows: Sequence[Row], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by the values of some keys, in the order in which they first come."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def means(rows: Sequence[Row], keys: Sequence[str], figures: Sequence[str]) -> list[dict[str, Any]]:
    """Return the mean figures of every group of rows, of people and of phantoms apart."""
    found = []
    for of, phantoms in ((OF_PEOPLE, False), (OF_PHANTOMS, True)):
        mine = [row for row in rows if is_phantom(row["subject"]) == phantoms]
        for values, members in groups(mine, keys).items():
            found.append(
                {
                    "of": of,
                    **dict(zip(keys, values, strict=True)),
                    "n_subjects": len({row["subject"] for row in members}),
                    **{figure: mean(members, figure) for figure in figures},
                }
            )
    return found
