"""The client hears what became of its scan: a closing TEXT, which the stock client prints."""

from dataclasses import replace
from pathlib import Path

import pytest

from gadgets.cli import main
from gadgets.files.mrd_hdf5 import MrdFile
from gadgets.files.source import open_source, write_mrd
from gadgets.host.child_host import Address
from gadgets.mrd.items import Acquisition, Image
from gadgets.mrd.messages import Close, ConfigFile, Header, Text
from gadgets.scanner.client import MrdClient
from tests.gadgets.helpers.cases import WHOLE, images_of, nrmse
from tests.gadgets.helpers.closed_loop import source
from tests.gadgets.helpers.peer import session


def said(
    address: Address, lines: list[Acquisition], header: bytes, config: str = "cg_sense.xml"
) -> tuple[list[Image], str]:
    """Return the images of a session and its texts."""
    heard = session(address, ConfigFile(config), Header(header), *lines, Close())
    texts = [message.text for message in heard if isinstance(message, Text)]
    assert not any("ERROR" in text for text in texts)
    return [m for m in heard if isinstance(m, Image)], "".join(texts)


def changed(line: Acquisition, **fields: int) -> Acquisition:
    header = line.header.copy()
    for name, value in fields.items():
        header[name] = value
    return replace(line, header=header)


SCAN = source(n_slices=2)
LINES = list(SCAN.acquisitions)


def test_a_whole_scan_has_nothing_to_be_told(address: Address) -> None:
    images, text = said(address, LINES, SCAN.header)
    assert len(images) == 2
    assert text == ""


def test_lines_of_another_encoding_space_are_told(address: Address) -> None:
    strange = [changed(line, encoding_space_ref=1) for line in LINES[:5]]
    images, text = said(address, [*LINES, *strange], SCAN.header)
    assert len(images) == 2
    assert text.startswith("WARNING: 5 lines of other encoding spaces: images are made of one")


@pytest.mark.parametrize("counted", [True, False])
def test_averages_that_the_header_does_not_announce_are_never_dropped_in_silence(
    counted: bool, address: Address
) -> None:
    again = [changed(line, average=int(counted)) for line in LINES]
    images, text = said(address, [*LINES, *again], SCAN.header)
    assert len(images) == 2
    assert "128 lines after their frame was complete" in text
    assert "averages and echoes beyond what the header announces" in text


def test_echoes_side_by_side_that_nothing_numbers_are_told(address: Address) -> None:
    plain = [changed(line, flags=0) for line in LINES]
    pairs = [line for line in plain for _ in range(2)]
    images, text = said(address, pairs, SCAN.header)
    assert len(images) == 2
    assert "126 doubled lines: they came again with equal counters" in text


def test_an_incomplete_slice_is_named_with_its_lines(address: Address) -> None:
    images, text = said(address, LINES[:64] + LINES[70:127], SCAN.header)
    assert [int(i.header["slice"]) for i in images] == [0]
    assert (
        "slice 1, contrast 0, repetition 0: no image, 57 lines came, expected 64 or those of its "
        "mask" in text
    )


def test_a_mask_that_reached_nobody_is_told_with_its_reason(address: Address) -> None:
    _, text = said(address, LINES, SCAN.header, "adaptive_modl.xml")
    assert "2 masks reached no sequence: " in text


def test_a_wrong_centre_is_told_and_stands_in_the_image_s_meta(address: Address) -> None:
    header = SCAN.header.replace(b"<center>32</center>", b"<center>40</center>")
    assert header != SCAN.header
    images, text = said(address, LINES, header)
    assert "frames with their strongest line away from the header's centre: a wrong" in text
    assert {image.meta["mnet_strongest_ky"] for image in images} <= {"31", "32", "33"}
    assert "the header's center another" in images[0].meta["ImageComments"]


@pytest.mark.parametrize(("n_empty", "told"), [(48, True), (30, True), (10, False), (0, False)])
def test_a_partial_echo_is_told(n_empty: int, told: bool, address: Address) -> None:
    cut = [replace(line, data=line.data.copy()) for line in LINES]
    for line in cut:
        line.data[:, :n_empty] = 0
    images, text = said(address, cut, SCAN.header)
    assert len(images) == 2
    assert ("128 lines of a partial echo: one side of their readout is empty" in text) == told


def test_our_client_shows_what_any_host_says(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    strange = changed(LINES[0], encoding_space_ref=1)
    with caplog.at_level("WARNING"), MrdClient(address.host, address.port) as client:
        client.start("cg_sense.xml", SCAN.header)
        client.send_all([*LINES, strange])
        client.finish()
        assert client.said[0].startswith("WARNING: 1 lines of other")
    assert "the host says: WARNING: 1 lines of other encoding spaces" in caplog.text


def test_a_replay_from_which_only_masks_come_back_has_failed(
    address: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # every slice lacks its edges, so that masks are made and no image
    few = [line for line in LINES if 16 <= line.header["kspace_encode_step_1"] < 48]
    write_mrd(tmp_path / "few.h5", SCAN.header, [changed(line, flags=0) for line in few])
    where = f"{address.host}:{address.port}"
    command = ["replay", str(tmp_path / "few.h5"), "--host", where]
    assert main([*command, "--config", "adaptive_modl_retrospective.xml"]) == 1
    heard = capsys.readouterr()
    assert "only masks came back" in heard.err
    assert "2 images" in heard.out


def test_nobody_at_the_mask_endpoint_is_said_in_seconds_and_is_a_failure(
    address: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mrd(tmp_path / "scan.h5", SCAN.header, SCAN.acquisitions)
    where = f"{address.host}:{address.port}"
    command = ["scan", str(tmp_path / "scan.h5"), "--host", where, "--no-report"]
    assert main([*command, "--mask-endpoint", "tcp://127.0.0.1:9"]) == 1
    assert "nobody answers on the mask channel at tcp://127.0.0.1:9" in capsys.readouterr().err


def test_a_live_client_s_reference_space_may_be_the_first(address: Address, shared: Path) -> None:
    cases = shared / "cases"
    if not cases.is_dir():
        pytest.skip("no cases")
    (truth,) = images_of(open_source(cases / WHOLE))[0]
    for name in ("enc_ref0.h5", "enc_ref1.h5"):
        raw = MrdFile.of(cases / name)  # as the file has it, not amended
        images, text = said(address, raw.lines(), raw.header)
        assert len(images) == 1, (name, text)
        assert nrmse(images[0], truth) < 0.06
        assert not text


def test_a_note_on_the_header_is_told(address: Address) -> None:
    start, _, rest = SCAN.header.partition(b"<kspace_encoding_step_1>")
    silent = start + rest.partition(b"</kspace_encoding_step_1>")[2]
    images, text = said(address, LINES, silent)
    assert len(images) == 2
    assert "no encodingLimits of kspace_encoding_step_1: taken to be 0 to 63" in text
