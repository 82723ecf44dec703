"""Where weights come from: the part of a card that every training run shares."""

import subprocess
from pathlib import Path
from typing import Any

from training.corpus import SEEDS
from training.images import SOURCES


def provenance() -> dict[str, Any]:
    """Return data files with subjects, splits and licences, how scans are drawn, and the commit."""
    return {
        "data": [
            {
                "file": f"{source.file}.npz",
                "subject": source.subject,
                "split": source.split,
                "licence": source.licence,
            }
            for source in SOURCES
        ],
        "simulation": {
            "what": "multi-coil k-space simulated from magnitude images, see training/simulate.py",
            "seeds": {split: f"[{seed}, number of the scan]" for split, seed in SEEDS.items()},
        },
        "commit": commit(),
    }


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
