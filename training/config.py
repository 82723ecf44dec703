"""Runs are frozen dataclasses, read from JSON; an unknown key is an error."""

import json
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def read_config(kind: type[T], path: Path) -> T:
    """Read a run's configuration.

    Raises
    ------
    ValueError
        If the file has a key that the run does not know.
    """
    values = json.loads(path.read_text())
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{path}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
