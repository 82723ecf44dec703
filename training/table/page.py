"""The table as Markdown, and as one HTML page with its figures inside."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gadgets.report.pictures import png_uri
from gadgets.report.render import write_html
from training.table.sections import Section, preface, sections, verdict

TITLE = "Samplers and reconstructors"


def markdown(found: Mapping[str, Any]) -> str:
    """Return all tables as Markdown."""
    _, ruling = verdict(found)
    parts = [f"# {TITLE}", preface(found), ruling, *(_markdown(s) for s in sections(found))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(section: Section) -> str:
    lines = [section.head, ["---"] * len(section.head), *section.rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## {section.title}\n\n{table}" + (f"\n\n{section.note}" if section.note else "")


def write_page(path: Path, found: Mapping[str, Any], pictures: Sequence[tuple[Path, str]]) -> None:
    """Write one HTML file without scripts and without references to other files."""
    better, ruling = verdict(found)
    values = {
        "title": TITLE,
        "preface": preface(found),
        "better": better,
        "ruling": ruling,
        "sections": sections(found),
        "pictures": [(caption, png_uri(file.read_bytes())) for file, caption in pictures],
    }
    write_html(path, "table.html", values, room="training.table")
