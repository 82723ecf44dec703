"""The open images that this project trains and tests on: whose they are, and what to trust in them.

They stand in sources.toml by collection: what holds for all of its files, then the files. The keys
are the fields of `Source`.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Detail = Literal["full", "structure"]
TABLE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file, or the images of one subject in it: whose they are, and what may be used."""

    part: str  # the name by which a cohort asks for it
    file: str  # without .npz
    anatomy: str
    licence: str
    attribution: str = ""  # collection and citation, where the licence or the authors ask for it
    subject: str = ""  # the part's name, where nothing else is said
    member: str = ""  # in a file of several subjects: this one's name in its array of subjects
    slices: tuple[int, int] | None = None  # the first, and the one behind the last
    voxel: tuple[float, float, float] | None = (
        None  # mm (slice, row, column), if the file is silent
    )
    reslice: bool = True  # voxels fine enough in all directions, if the file is silent
    filled: tuple[float, float] = (1.0, 1.0)  # share of k-space (row, column) that holds detail
    detail: Detail = "full"  # structure: air, noise and outer k-space are not a scanner's
    test_only: bool = False  # never trained or settled on
    drawn: bool = False  # by training.data.phantoms: there is no file

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", self.subject or self.part)
        for name in ("slices", "voxel", "filled"):  # TOML has lists
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if value is not None else None)


@cache
def sources() -> tuple[Source, ...]:
    """Read the table.

    Raises
    ------
    TypeError
        If a key of the table is unknown, or one is missing.
    """
    collections = tomllib.loads(TABLE.read_text())["collection"]
    return tuple(
        Source(**{k: v for k, v in common.items() if k != "sources"} | own)
        for common in collections
        for own in common["sources"]
    )


def sources_of(part: str) -> list[Source]:
    """Return what is known of a part, or of a file by its stem; nothing if it is the user's own."""
    return [source for source in sources() if part in (source.part, source.file)]


def subjects(parts: Sequence[str]) -> set[str]:
    """Return whose bodies the parts show; a part that is not known is a subject of its own."""
    return {
        subject
        for part in parts
        for subject in [source.subject for source in sources_of(part)] or [part]
    }
