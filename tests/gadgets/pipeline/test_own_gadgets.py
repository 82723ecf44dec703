"""A folder of gadgets: who may write to it, what may be in it, and how its classes are named."""

import hashlib
import os
import sys
from pathlib import Path

import pytest

from gadgets.errors import ConfigError
from gadgets.pipeline.build import parse, parse_stream
from gadgets.pipeline.catalogue import OURS, Catalogue
from gadgets.pipeline.gadget import Gadget
from gadgets.pipeline.own_files import read_folder
from gadgets.pipeline.own_gadgets import import_files, own_gadgets

GOOD = """
from dataclasses import dataclass
from typing import Literal, Optional

from gadgets.pipeline.gadget import Gadget


@dataclass(frozen=True, kw_only=True)
class Smooth(Gadget):
    heavy = True
    width: float = 2.0
    kind: Literal["box", "cone"] = "box"
    seed: int | None = None
    label: Optional[str] = None

    def __call__(self, scan, items):
        return items
"""


def folder_of(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "own"
    folder.mkdir(mode=0o755)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
        (folder / f"{name}.py").chmod(0o644)
    return folder


def pipeline(name: str, **properties: str) -> str:
    inner = "".join(f'<property name="{k}" value="{v}"/>' for k, v in properties.items())
    return (
        '<configuration><version>2</version><stream><external><execute name="gadgets.external"/>'
        f'<configuration><gadget class="{name}">{inner}</gadget></configuration></external>'
        "</stream></configuration>"
    )


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        own_gadgets(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", ["Smooth", "smooth.Smooth"])
def test_a_pipeline_names_a_class_alone_or_with_its_file(name: str, tmp_path: Path) -> None:
    catalogue = own_gadgets(folder_of(tmp_path, smooth=GOOD))
    (gadget,) = parse(pipeline(name, width="3", kind="cone", seed="", label="a"), catalogue)
    assert isinstance(gadget, Gadget)
    assert gadget == catalogue.kind("Smooth")(width=3.0, kind="cone", label="a")  # type: ignore[call-arg]
    assert gadget.heavy
    assert parse_stream(pipeline(name), catalogue).own == {
        "smooth.Smooth": hashlib.sha256(GOOD.encode()).hexdigest()
    }


@pytest.mark.parametrize(
    "name", ["smooth", "other.Smooth", "dataclass", "Gadget", "smooth.Gadget", "os.system", ""]
)
def test_a_name_that_is_no_gadget_is_answered_with_those_that_are(
    name: str, tmp_path: Path
) -> None:
    catalogue = own_gadgets(folder_of(tmp_path, smooth=GOOD))
    with pytest.raises(ConfigError, match=r"unknown gadget class .*ImageFinish, smooth\.Smooth$"):
        parse(pipeline(name), catalogue)


def test_without_a_folder_only_ours_are_known(tmp_path: Path) -> None:
    own_gadgets(folder_of(tmp_path, smooth=GOOD))  # changes nothing but what it returns
    with pytest.raises(ConfigError, match=r"unknown gadget class 'smooth\.Smooth'"):
        parse(pipeline("smooth.Smooth"))
    assert Catalogue() == OURS


def test_a_wrong_property_is_named_like_those_of_our_gadgets(tmp_path: Path) -> None:
    catalogue = own_gadgets(folder_of(tmp_path, smooth=GOOD))
    with pytest.raises(ConfigError) as caught:
        parse(pipeline("Smooth", width="wide", kind="disc", gain="2"), catalogue)
    assert str(caught.value) == (
        "gadget Smooth has no property gain; it has width, kind, seed, label; "
        "gadget Smooth, property width is 'wide', expected float; "
        "gadget Smooth, property kind is 'disc', expected one of box, cone"
    )


def test_a_property_without_a_default_must_be_given(tmp_path: Path) -> None:
    text = GOOD.replace("width: float = 2.0", "width: float")
    catalogue = own_gadgets(folder_of(tmp_path, smooth=text))
    with pytest.raises(ConfigError, match="gadget Smooth needs a value of width"):
        parse(pipeline("Smooth"), catalogue)


def test_types_written_as_text_are_understood_too(tmp_path: Path) -> None:
    text = "from __future__ import annotations\n" + GOOD
    catalogue = own_gadgets(folder_of(tmp_path, smooth=text))
    (gadget,) = parse(pipeline("Smooth", width="3"), catalogue)
    assert gadget == catalogue.kind("Smooth")(width=3.0)  # type: ignore[call-arg]


def test_two_folders_with_a_file_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one = own_gadgets(folder_of(tmp_path / "a", smooth=GOOD))
    two = own_gadgets(folder_of(tmp_path / "b", smooth=GOOD.replace("2.0", "5.0")))
    widths = [parse(pipeline("smooth.Smooth"), each)[0].width for each in (one, two)]  # type: ignore[attr-defined]
    assert widths == [2.0, 5.0]


def test_only_files_at_the_top_are_read_and_hidden_ones_are_not(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, smooth=GOOD)
    (folder / "below").mkdir()
    (folder / "below" / "deep.py").write_text("raise RuntimeError")
    (folder / ".backup.py").write_text("raise RuntimeError")
    (folder / "notes.txt").write_text("raise RuntimeError")
    assert list(own_gadgets(folder).own) == ["smooth.Smooth"]
    assert not (folder / "__pycache__").exists()


def test_what_was_read_runs_although_the_file_has_changed_since(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, smooth=GOOD)
    files = read_folder(folder)
    (folder / "smooth.py").write_text("raise RuntimeError('another')")
    assert list(import_files(files).own) == ["smooth.Smooth"]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(mode: int, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, smooth=GOOD)
    folder.chmod(mode)
    assert refusal(folder) == (
        f"gadgets: {folder} can be written by others (mode {mode:04o}): chmod go-w {folder}"
    )


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_can_write_to_is_refused(mode: int, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, smooth=GOOD, second=GOOD.replace("Smooth", "Second"))
    (folder / "smooth.py").chmod(mode)
    assert f"chmod go-w {folder}/smooth.py" in refusal(folder)


def test_a_folder_that_others_could_exchange_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, smooth=GOOD)
    tmp_path.chmod(0o777)
    assert f"chmod go-w {tmp_path}" in refusal(folder)
    tmp_path.chmod(0o1777)  # as that of /tmp: others cannot rename what is not theirs
    assert own_gadgets(folder).own


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_folder_or_file_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, smooth=GOOD)
    os.chown(folder / "smooth.py", 12345, -1)
    assert "smooth.py belongs to user 12345, expected root or user 0" in refusal(folder)
    os.chown(folder, 12345, -1)
    assert f"{folder} belongs to user 12345" in refusal(folder)


def test_a_link_to_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, smooth=GOOD)
    (tmp_path / "elsewhere.py").write_text(GOOD)
    (folder / "link.py").symlink_to(tmp_path / "elsewhere.py")
    assert refusal(folder) == f"gadgets: {folder}/link.py: is a link, expected a file"


def test_a_folder_reached_through_a_link_is_the_folder_itself(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, smooth=GOOD)
    (tmp_path / "link").symlink_to(folder)
    assert own_gadgets(tmp_path / "link").files == own_gadgets(folder).files


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("smooth", "def broken(:\n", "smooth.py, line 1: no python: invalid syntax"),
        ("smooth", "x = 1\nx = '\0'\n", "smooth.py, line 1: no python: "),
        ("my-gadget", GOOD, "my-gadget.py: expected a name of letters, digits and '_'"),
        ("smooth", "\n\nimport no_such_module\n", "smooth.py, line 3: ModuleNotFoundError: No mo"),
        ("smooth", "def f():\n    1 / 0\nf()\n", "smooth.py, line 2: ZeroDivisionError: "),
        ("smooth", "raise SystemExit(3)\n", "smooth.py, line 1: SystemExit: 3"),
        ("smooth", "from . import other\n", "smooth.py, line 1: ImportError: "),
        ("smooth", "x = 1\n", "no class of it is a gadgets.pipeline.gadget.Gadget"),
        ("smooth", GOOD.replace("Smooth", "_Smooth"), "no class of it is a gadgets.pipeline.gad"),
        ("smooth", GOOD.replace("__call__", "run"), "Smooth has no __call__; a base of gadgets"),
        ("smooth", GOOD.replace("class Smooth", "class Reconstruct"), "the name of one of our ga"),
        ("smooth", GOOD.replace("class Smooth", "class Extract"), "the name of one of our gadgets"),
        ("smooth", GOOD.replace("@dataclass(frozen=True, kw_only=True)", ""), "is no dataclass: w"),
        ("smooth", GOOD.replace(", kw_only=True", "").replace("frozen=True", ""), "cannot inherit"),
        ("smooth", GOOD.replace("width: float", "width: list[int]"), "of type list[int], expected"),
        ("smooth", GOOD.replace("width: float", "width: int | str"), "of type int | str, expected"),
        ("smooth", GOOD.replace("width: float", "width: 'Lost'"), "a property cannot be read: nam"),
        (
            "smooth",
            GOOD.replace('"box", "cone"', "1, 2"),
            "property kind is of type typing.Literal",
        ),
        ("smooth", GOOD.replace("heavy =", "heavy: bool ="), "heavy is of the class: write heavy"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_place_and_its_fault(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, **{name: text})
    before = set(sys.modules)
    said = refusal(folder)
    assert words in said
    assert str(folder / f"{name}.py") in said
    assert not {m for m in set(sys.modules) - before if m.startswith("own_gadgets")}


def test_two_files_cannot_have_a_gadget_of_one_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, first=GOOD, second=GOOD)
    assert (
        refusal(folder) == f"gadgets: {folder}/second.py: {folder}/first.py has a gadget Smooth too"
    )


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, first="x = 1", second="raise ValueError", third=GOOD)
    said = refusal(folder)
    assert "first.py" in said
    assert "second.py" in said
    assert "third.py" not in said


def test_a_folder_without_files_or_none_at_all_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"gadgets: {tmp_path / 'none'} is no folder"
    assert (
        refusal(folder_of(tmp_path)) == f"gadgets: {tmp_path / 'own'} has no file *.py at its top"
    )


def test_a_pipeline_s_own_gadgets_are_told_with_the_hash_of_their_file(tmp_path: Path) -> None:
    catalogue = own_gadgets(folder_of(tmp_path, smooth=GOOD, other=GOOD.replace("Smooth", "O")))
    (gadget,) = parse(pipeline("Smooth"), catalogue)
    hashes = catalogue.hashes([gadget])
    assert hashes == {"smooth.Smooth": catalogue.own["smooth.Smooth"].file.sha256}
    assert len(hashes["smooth.Smooth"]) == 64
