"""`cohort.json`: whose body every scan of a cohort shows; of measured ones file and slice, too."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_INDEX = "cohort.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a scan of a cohort comes from."""

    file: str
    slice: int
    subject: str
    acceleration: float


def claim(folder: Path, scans: Sequence[Origin], *, whiten: bool) -> None:
    """Write the index of a cohort, or find the same one there.

    Raises
    ------
    ValueError
        If the folder holds scans of other settings, or without an index.
    """
    wanted = {"whiten": whiten, "scans": [asdict(scan) for scan in scans]}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _INDEX
    if path.exists():
        if json.loads(path.read_text()) != wanted:
            raise ValueError(f"{folder} holds a cohort of other settings, see {path}: not changed")
        return
    if any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds scans without {_INDEX}: not changed")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(wanted, indent=1))
    os.replace(part, path)


def name_subjects(folder: Path, names: Sequence[str]) -> None:
    """Write whose body every simulated scan of a cohort shows, by scan number."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"scans": [{"subject": name} for name in names]}
    (folder / _INDEX).write_text(json.dumps(content, indent=1) + "\n")


def index(folder: Path) -> list[dict[str, Any]]:
    """Return file, slice, subject and acceleration of every scan of a cohort, by scan number."""
    scans: list[dict[str, Any]] = json.loads((folder / _INDEX).read_text())["scans"]
    return scans


def subjects(folder: Path) -> list[str]:
    """Return the subject of every scan of a cohort, by scan number."""
    return [scan["subject"] for scan in index(folder)]
