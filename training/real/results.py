"""What the bench found, on disk: `real.json`, `real.md` and `index.html`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.real.sections import preface, sections
from training.table.page import text_of, write_json, write_sections

TITLE = "Real scans"
NAME = "real.json"


def write_found(
    folder: Path, found: Mapping[str, Any], pictures: Sequence[tuple[Path, str]]
) -> None:
    """Write all three; pictures are files with their captions."""
    tables = sections(found)
    write_json(folder / NAME, found)
    text = text_of(TITLE, [preface(found)], tables)
    (folder / "real.md").write_text(text, encoding="utf-8")
    write_sections(folder / "index.html", TITLE, preface(found), tables, pictures)


def read_found(folder: Path) -> dict[str, Any] | None:
    """Read what the bench wrote; None where it has not run."""
    path = folder / NAME
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found
