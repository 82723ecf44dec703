"""Where weights come from: the part of a card that every training run shares."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnet.weight_files import read_card
from training.data.sources import Source, sources_of


def provenance(parts: Sequence[str], start: str = "") -> dict[str, Any]:
    """Return the data of some parts with subjects, licences and attributions, and the commit.

    A part that is none of the open ones is a file itself: of k-space, or a volume of the user's.
    Of the weights that a run started from, the sha256 is told, and how they had been trained.
    """
    known = [source for part in dict.fromkeys(parts) for source in sources_of(part)]
    others = [
        {"file": Path(part).name, "licence": "unknown here"}
        for part in parts
        if not sources_of(part)
    ]
    measured = bool(parts) and all(part.endswith(".h5") for part in parts)
    return {
        "data": [_told(source) for source in known] + others,
        "licences": sorted({source.licence for source in known}),
        "attributions": sorted({source.attribution for source in known if source.attribution}),
        "simulation": "none: measured k-space"
        if measured
        else "multi-coil k-space from magnitude images, see training/data/simulate.py",
        "started_from": started_from(start),
        "before": before(start),
        "commit": commit(),
    }


def _told(source: Source) -> dict[str, Any]:
    about = {
        "file": f"{source.file}.npz",
        "subject": source.subject,
        "slices": list(source.slices) if source.slices else "all",
        "licence": source.licence,
    }
    return about | ({"attribution": source.attribution} if source.attribution else {})


def started_from(start: str) -> str:
    """Return the sha256 of the weights that a run starts from; nothing where it has none."""
    return str(read_card(start)["sha256"]) if start else ""


def before(start: str) -> list[dict[str, Any]]:
    """Return the runs that made the weights which a run starts from, the first one first."""
    if not start:
        return []
    card = read_card(start)
    last = {key: card.get("training", {}).get(key) for key in ("n_steps", "batch", "learning_rate")}
    told = {key: card.get(key, "") for key in ("sha256", "started_from", "commit")}
    earlier: list[dict[str, Any]] = card.get("before", [])
    return [*earlier, last | told]


def commit() -> str:
    """Return the commit of the checkout, marked where files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
    return done.stdout.strip()
