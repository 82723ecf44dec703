"""docs/pipelines.md says what the XML files and the gadgets say."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from gadgets.gadgetron.classes import GADGETRON_CLASSES
from gadgets.pipeline.build import parse
from gadgets.pipeline.catalogue import GADGETS, STEPS, step
from gadgets.pipeline.field_comments import field_comments
from gadgets.pipeline.properties import annotations, can_be_text
from gadgets.pipeline.readers_writers import READERS, WRITERS
from gadgets.pipeline.reference import page, purpose

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/pipelines.md").read_text()
SHIPPED = sorted((ROOT / "xml_configs").glob("*.xml"))


def test_the_page_is_the_one_that_its_command_makes() -> None:
    assert page() == PAGE, "python -m gadgets.pipeline.reference > docs/pipelines.md"


@pytest.mark.parametrize("name", STEPS)
def test_every_property_says_what_it_means_and_can_be_written_in_xml(name: str) -> None:
    said = field_comments(step(name))
    for key, annotation in annotations(step(name)).items():
        assert len(said[key].split()) >= 3, f"{name}.{key}: {said[key]!r}"
        assert can_be_text(annotation)


def row(name: str, key: str) -> list[str]:
    """Return the cells of a property on the page."""
    section = re.search(rf"^#+ {name}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    assert section
    (found,) = re.findall(rf"^\| `{key}` \|.*\|$", section[1], re.M)
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.mark.parametrize(
    ("name", "key", "kind", "default", "word"),
    [
        ("Reconstruct", "lam", "number, or empty", "", "Tikhonov"),
        ("PredictMask", "basis", "`acquirable`, `encoded`", "`acquirable`", "divides"),
        ("PredictMask", "feedback", "`mask_channel`, `mrd1028`", "`mask_channel`", "1028"),
        ("ImageFinish", "emit_mask_image", "`true`, `false`", "`true`", "series"),
        ("AccumulateFrame", "n_calibration", "whole number", "`24`", "lines"),
        ("FloatToShort", "max_intensity", "whole number", "`32767`", "clipped"),
    ],
)
def test_a_property_has_its_type_its_default_and_its_comment(
    name: str, key: str, kind: str, default: str, word: str
) -> None:
    cells = row(name, key)
    assert cells[:3] == [f"`{key}`", kind, default]
    assert word in cells[3]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_pipeline_is_there_with_its_purpose_and_its_gadgets(path: Path) -> None:
    xml = path.read_text()
    section = PAGE.split(f"\n### {path.name}\n")[1].split("\n#")[0]
    assert purpose(xml) in section
    assert len(purpose(xml).split()) > 10
    named = re.findall(r"`(\w+)`(?: \([^)]*\))?(?= ►|$)", section.strip().splitlines()[-1])
    assert named == [type(gadget).__name__ for gadget in parse(xml)]


def test_every_class_of_gadgetron_is_there_and_what_stands_for_it_is_described() -> None:
    for name, known in GADGETRON_CLASSES.items():
        (line,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.M)
        for word in (*known.passed, *known.allowed, *known.ignored):
            assert f"`{word}`" in line
        if known.gadget is not None:
            assert f"`{known.gadget}`" in line
            assert re.search(rf"^###+ {known.gadget}$", PAGE, re.M)
    for name in (*READERS, *WRITERS, *GADGETS):
        assert name in PAGE


@dataclass
class Base:
    """For the next test."""

    behind: int = 1  # it stands behind
    # it stands above,
    # on two lines
    above: int = 2
    silent: int = 3
    again: int = 4  # the base's words


@dataclass
class Derived(Base):
    """For the next test."""

    again: int = 5
    silent: int = 6  # said at last
    word: str = "# is no comment"
    long: tuple[int, ...] = (
        1,  # not this one
    )  # but this one


def test_comments_are_found_behind_and_above_and_in_bases() -> None:
    assert field_comments(Derived) == {
        "behind": "it stands behind",
        "above": "it stands above, on two lines",
        "silent": "said at last",
        "again": "the base's words",
        "word": "",
        "long": "but this one",
    }
