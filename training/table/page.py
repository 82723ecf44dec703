"""The table as JSON, as Markdown, and as one HTML page with its figures inside."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gadgets.report.pictures import png_uri
from gadgets.report.render import write_html
from training.table.sections import Section, preface, sections, verdict

TITLE = "Samplers and reconstructors"


def markdown(found: Mapping[str, Any], before: Sequence[Section] = ()) -> str:
    """Return all tables as Markdown; `before` are sections that stand first."""
    _, ruling = verdict(found)
    return text_of(TITLE, [preface(found), ruling], [*before, *sections(found)])


def text_of(title: str, words: Sequence[str], tables: Sequence[Section]) -> str:
    """Return a title, paragraphs and sections as Markdown."""
    parts = [f"# {title}", *words, *(_markdown(section) for section in tables)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(section: Section) -> str:
    lines = [section.head, ["---"] * len(section.head), *section.rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## {section.title}\n\n{table}" + (f"\n\n{section.note}" if section.note else "")


def write_page(
    path: Path,
    found: Mapping[str, Any],
    pictures: Sequence[tuple[Path, str]],
    before: Sequence[Section] = (),
) -> None:
    """Write a study's page; `before` are sections that stand first."""
    write_sections(
        path, TITLE, preface(found), [*before, *sections(found)], pictures, verdict(found)
    )


def write_sections(
    path: Path,
    title: str,
    words: str,
    tables: Sequence[Section],
    pictures: Sequence[tuple[Path, str]],
    ruling: tuple[bool | None, str] = (None, ""),
) -> None:
    """Write one HTML file without scripts and without references to other files."""
    values = {
        "title": title,
        "preface": words,
        "better": ruling[0],
        "ruling": ruling[1],
        "sections": tables,
        "pictures": [(caption, png_uri(file.read_bytes())) for file, caption in pictures],
    }
    write_html(path, "table.html", values, room="training.table")


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """Write JSON that appears only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    os.replace(part, path)
