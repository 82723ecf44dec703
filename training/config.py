"""Runs are frozen dataclasses, read from JSON; an unknown key is an error."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
PLACES = frozenset(  # settings that say where files lie
    {
        "scans",
        "run",
        "out",
        "weights",
        "labels",
        "masks",
        "patterns",
        "start",
        "reconstructor",
        "real",
    }
)


def read_config(kind: type[T], path: Path) -> T:
    """Read a run's configuration.

    Raises
    ------
    ValueError
        If the file has a key that the run does not know, or lacks one that it needs.
    """
    return made(kind, str(path), json.loads(path.read_text()))


def made(kind: type[T], what: str, values: Mapping[str, Any]) -> T:
    """Make a dataclass from JSON values; unknown and missing keys are errors that name them."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{what}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from None


def told(config: Any) -> dict[str, Any]:
    """Return the settings of a run as cards and files keep them: of a place its last name alone.

    So nothing that leaves a machine says in which folder it was made.
    """
    return {key: _last(value) if key in PLACES else value for key, value in asdict(config).items()}


def _last(place: str | Sequence[str]) -> str | list[str]:
    return Path(place).name if isinstance(place, str) else [Path(each).name for each in place]
