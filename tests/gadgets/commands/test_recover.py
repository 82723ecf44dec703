import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gadgets.cli import main
from gadgets.commands.recover import IMAGES, interrupted
from gadgets.files.source import read_images
from gadgets.host.child_host import Address
from gadgets.mrd.items import Image
from gadgets.mrd.messages import Header, message_buffers
from gadgets.pipeline.build import load
from gadgets.records.reader import read_record
from gadgets.records.writer import MAGIC, MESSAGES, SUMMARY, Record
from gadgets.scanner.sequence import play
from tests.gadgets.helpers.closed_loop import sequence, source
from tests.gadgets.helpers.external_parent import plain_loop
from tests.gadgets.helpers.synthetic import scanned

SCAN = scanned(n_slices=3)
XML = load("zero_filled.xml")


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Record]:
    """Record two and a half slices, as a process that is killed then leaves them."""

    def recorded(name: str, xml: str = XML) -> Record:
        record = Record.create(tmp_path, name)
        if xml:
            record.begin({"pipeline": xml})
        lines = [line for slice_ in range(3) for line in SCAN.lines(slice_)]
        for message in (Header(SCAN.header), *lines[: 2 * 32 + 16]):
            record.message(message_buffers(message))
        return record

    return recorded


def killed(record: Record) -> Path:
    record._close_files()  # as the system does
    return record.folder


def test_what_is_complete_of_an_interrupted_scan_becomes_images(
    recorded: Callable[..., Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = killed(recorded("cut"))
    running, ended = recorded("running"), recorded("ended")
    ended.finish({"error": ""})
    before = (folder / MESSAGES).read_bytes()
    assert interrupted(tmp_path) == [folder]
    assert main(["recover", str(tmp_path), "--list", "--quiet"]) == 0
    assert "cut: interrupted after 80 lines" in capsys.readouterr().out
    assert not (folder / IMAGES).exists()
    assert main(["recover", str(tmp_path), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "cut: 2 images" in said
    assert "running" not in said
    expected = plain_loop(SCAN, XML, [*SCAN.lines(0), *SCAN.lines(1)])
    for image, wanted in zip(read_images(folder / IMAGES), expected, strict=True):
        np.testing.assert_array_equal(image.data, wanted.data)
    assert (folder / MESSAGES).read_bytes() == before
    assert json.loads((folder / SUMMARY).read_text())["state"] == "recovered"
    assert main(["recover", str(tmp_path), "--quiet"]) == 0
    assert "no interrupted scan" in capsys.readouterr().out
    running.close()


def test_a_record_without_a_pipeline_needs_one_named(
    recorded: Callable[..., Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = killed(recorded("old", xml=""))
    other = killed(recorded("other"))
    assert main(["recover", str(tmp_path), "--quiet"]) == 1
    said = capsys.readouterr().out
    assert "old: the record does not say its pipeline: name one with --config" in said
    assert "other: 2 images" in said, "one that fails is no reason to leave the others"
    assert other.exists()
    assert main(["recover", str(folder), "--config", "zero_filled.xml", "--quiet"]) == 0
    assert len(read_images(folder / IMAGES)) == 2


@pytest.mark.parametrize("content", [b"", MAGIC[:3], MAGIC])
def test_a_host_killed_as_it_made_a_record_left_nothing_to_recover(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is listed, and no failure: nobody could ever mend it."""
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / MESSAGES).write_bytes(content)
    assert list(read_record(tmp_path / "early")) == []
    assert main(["recover", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr().out == "early: interrupted before its first line\n"


def test_masks_of_an_adaptive_scan_are_those_that_its_sequence_measured(
    address: Address, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(records.iterdir())
    played, images = play(source(2), sequence(), address, "adaptive_modl.xml")
    assert not any(one.fallback for one in played)
    (folder,) = set(records.iterdir()) - before
    summary = json.loads((folder / SUMMARY).read_text())
    pipeline = {"state": "running", "pipeline": summary["pipeline"]}
    (folder / SUMMARY).write_text(json.dumps(pipeline))
    assert main(["recover", str(folder), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert f"{len(images)} images" in said
    assert "masks are others" not in said
    # Pixels are whole numbers; sums run in another order here than in the worker.
    again = read_images(folder / IMAGES)
    for image, wanted in zip(ordered(again), ordered(images), strict=True):
        np.testing.assert_allclose(image.data, wanted.data, rtol=1e-3, atol=2)


def ordered(images: list[Image]) -> list[Image]:
    names = ("image_series_index", "slice")
    return sorted(images, key=lambda image: [int(image.header[name]) for name in names])


def test_a_folder_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["recover", str(tmp_path / "none")])
    assert "no such file or folder" in capsys.readouterr().err
