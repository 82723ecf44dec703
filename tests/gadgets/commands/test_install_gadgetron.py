"""Our pipelines in the folder of a C++ Gadgetron."""

from pathlib import Path

import pytest

from gadgets.cli import main
from gadgets.gadgetron.folder import CONFIG, CONNECT, pipelines


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / CONFIG).mkdir(parents=True)
    (tmp_path / CONFIG / "default.xml").write_text("<configuration/>")
    return tmp_path


@pytest.mark.parametrize("below", [Path(), CONFIG])
def test_all_of_them_are_put_where_gadgetron_looks(home: Path, below: Path) -> None:
    assert main(["install-gadgetron", str(home / below)]) == 0
    there = {path.name for path in (home / CONFIG).iterdir()}
    assert there == {"default.xml", *pipelines()}
    assert CONNECT in there
    assert main(["install-gadgetron", str(home / below)]) == 0, "a second time changes nothing"


def test_a_file_of_a_site_is_not_replaced_unasked_and_then_nothing_is_written(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / CONFIG / CONNECT).write_text("mine")
    assert main(["install-gadgetron", str(home)]) == 1
    assert f"other files named {CONNECT}: --overwrite" in capsys.readouterr().err
    assert len(list((home / CONFIG).iterdir())) == 2
    assert main(["install-gadgetron", str(home), "--overwrite"]) == 0
    assert (home / CONFIG / CONNECT).read_bytes() == pipelines()[CONNECT]


def test_a_folder_that_is_no_gadgetron_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install-gadgetron", str(tmp_path)]) == 1
    assert "is no Gadgetron: expected share/gadgetron/config" in capsys.readouterr().err
