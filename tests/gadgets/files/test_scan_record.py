import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gadgets.errors import ConfigError, ProtocolError
from gadgets.files.convert import convert
from gadgets.files.source import open_source
from gadgets.host.serve import new_record
from gadgets.mrd.header_layouts import ACQUISITION_HEADER, WAVEFORM_HEADER
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.items import Acquisition, Waveform
from gadgets.mrd.messages import Close, ConfigFile, Header, Message, message_buffers, write_message
from gadgets.records.folder import RecordFolder
from gadgets.records.reader import is_record, read_record
from gadgets.records.writer import MASKS, MESSAGES, SUMMARY, Record
from tests.gadgets.helpers.processes import started

HEADER = header_xml(
    encoded=(8, 6, 1),
    encoded_fov=(8.0, 6.0, 1.0),
    recon=(4, 6, 1),
    recon_fov=(4.0, 6.0, 1.0),
    n_coils=2,
)


def line(counter: int) -> Acquisition:
    header = np.zeros(1, ACQUISITION_HEADER)[0]
    header["version"], header["number_of_samples"], header["active_channels"] = 1, 8, 2
    header["kspace_encode_step_1"] = counter
    return Acquisition(header=header, data=np.full((2, 8), counter + 1j, np.complex64))


def wave() -> Waveform:
    header = np.zeros(1, WAVEFORM_HEADER)[0]
    header["channels"], header["number_of_samples"] = 1, 4
    return Waveform(header=header, data=np.arange(4, dtype=np.uint32)[None])


def scan() -> list[Message]:
    return [ConfigFile("a.xml"), Header(HEADER), wave(), *map(line, range(6)), Close()]


def recorded(root: Path, **options: int) -> Record:
    record = Record.create(root, "scan", **options)
    for message in scan():
        record.message(message_buffers(message))
    return record


def as_bytes(path: Path) -> list[bytes]:
    return [write_message(message) for message in read_record(path)]


def test_a_record_gives_back_its_messages_byte_for_byte(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    expected = [write_message(message) for message in scan()]
    assert as_bytes(record.folder) == expected  # readable while it is still open
    record.message(expected[0])  # one buffer instead of a list
    record.finish({"slices": []})
    assert as_bytes(record.folder) == [*expected, expected[0]]


def test_a_record_is_private_to_its_owner(tmp_path: Path) -> None:
    record = recorded(tmp_path / "records")
    record.finish({})
    assert record.folder.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o700
    files = list(record.folder.iterdir())
    assert {path.name for path in files} == {MESSAGES, MASKS, SUMMARY}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_masks_and_summary_are_json_and_an_old_summary_is_replaced(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    record.mask("sent", {"type": "mask", "slice": 0})
    record.mask("received", {"type": "ack"})
    entries = [json.loads(row) for row in (record.folder / MASKS).read_text().splitlines()]
    assert [entry["direction"] for entry in entries] == ["sent", "received"]
    assert entries[0]["message"] == {"type": "mask", "slice": 0}
    assert entries[0]["time"] <= entries[1]["time"]
    (record.folder / SUMMARY).write_text("old")
    record.finish({"model": "abc"})
    summary = json.loads((record.folder / SUMMARY).read_text())
    assert summary == {
        "state": "ended",
        "model": "abc",
        "record_stopped": "",
        "persisted_scan_counter": None,
    }
    record.close()  # harmless


def test_a_name_in_use_gets_a_number_and_a_path_is_no_name(tmp_path: Path) -> None:
    names = [Record.create(tmp_path, "scan").folder.name for _ in range(3)]
    assert names == ["scan", "scan-2", "scan-3"]
    for name in ("", "..", "a/b", "/etc"):
        with pytest.raises(ValueError, match="plain folder name"):
            Record.create(tmp_path, name)


def test_at_the_cap_the_record_stops_says_so_and_stays_readable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = Record.create(tmp_path, "scan", cap_bytes=2500)
    for message in scan():
        record.message(write_message(message))
    record.mask("sent", {})
    record.finish({})
    assert caplog.text.count("no more messages are recorded") == 1
    assert (record.folder / MESSAGES).stat().st_size <= 2500
    expected = [write_message(message) for message in scan()]
    kept = as_bytes(record.folder)
    assert 0 < len(kept) < len(expected)
    assert kept == expected[: len(kept)]
    assert "2500" in json.loads((record.folder / SUMMARY).read_text())["record_stopped"]
    assert (record.folder / MASKS).read_text().count("\n") == 1


def test_a_full_disk_stops_the_record_and_not_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = recorded(tmp_path)

    def full(descriptor: int, buffers: list[bytes]) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    record.message(b"\4\0")
    record.message(b"\4\0")
    assert "No space left" in record.stopped
    assert caplog.text.count("No space left") == 1
    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(os, "replace", full)
    record.mask("sent", {"type": "mask"})
    record.finish({"images": 1})
    assert "the summary is not recorded" in caplog.text
    assert not (record.folder / SUMMARY).exists()


def test_a_scan_that_cannot_be_recorded_goes_on_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert new_record(RecordFolder(tmp_path / "file")) is None
    assert "this scan is not recorded" in caplog.text
    assert new_record(None) is None
    record = new_record(RecordFolder(tmp_path / "records"))
    assert record is not None
    record.close()


@pytest.mark.parametrize("call", ["writev", "open"])
def test_a_disk_full_from_the_start_leaves_neither_descriptor_nor_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Nothing, not an empty record: that passes for one, and readers call it damaged."""
    really = getattr(os, call)

    def full(what: Any, *rest: Any, **options: Any) -> Any:
        if call == "writev" or str(what).endswith(MASKS):
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(what, *rest, **options)

    monkeypatch.setattr(os, call, full)
    before = len(os.listdir("/proc/self/fd"))
    assert [new_record(RecordFolder(tmp_path)) for _ in range(8)] == [None] * 8
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [8, 9, 15, 16, 17, 1041, 1042, 1049, 1100])
def test_a_record_cut_anywhere_gives_its_whole_messages(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    record = recorded(tmp_path)
    path = record.folder / MESSAGES
    path.write_bytes(path.read_bytes()[:kept])
    whole = 0 if kept < 8 + 8 + 1026 else 1
    assert as_bytes(record.folder) == [write_message(message) for message in scan()[:whole]]
    assert ("damaged or cut" in caplog.text) == (kept not in (8, 1042))


def test_reading_goes_on_behind_a_damaged_message_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = recorded(tmp_path)
    path = record.folder / MESSAGES
    data = bytearray(path.read_bytes())
    data[-400] ^= 1  # within the last acquisition, which is before the close
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        expected = [write_message(message) for message in scan()]
        assert as_bytes(record.folder) == [*expected[:-2], expected[-1]]
    assert "message 8 is damaged" in caplog.text


def test_a_writer_that_is_killed_leaves_a_record_that_reads(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from gadgets.mrd.messages import Text, write_message
        from gadgets.records.writer import Record
        record = Record.create(Path(sys.argv[1]), "scan")
        number = 0
        while True:
            record.message(write_message(Text(str(number) * 1000)))
            number += 1
            if number == 100:
                print("running", flush=True)
    """
    checkout = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", textwrap.dedent(script), tmp_path, checkout]
    with started(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.send_signal(signal.SIGKILL)
    texts = [message.text for message in read_record(tmp_path / "scan")]  # type: ignore[union-attr]
    assert len(texts) >= 100
    assert texts == [str(number) * 1000 for number in range(len(texts))]


def test_a_record_is_a_data_source_and_converts_to_mrd(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    record.finish({})
    assert is_record(record.folder)
    target = tmp_path / "raw.h5"
    said = convert(record.folder, target)
    assert "scan record" in said
    assert "6 acquisitions in 1 slices, 1 waveforms" in said
    source = open_source(target)
    assert source.header == HEADER
    assert source.waveforms[0].data.tolist() == [[0, 1, 2, 3]]
    for got, expected in zip(source.acquisitions, map(line, range(6)), strict=True):
        assert got.header.tobytes() == expected.header.tobytes()
        np.testing.assert_array_equal(got.data, expected.data)
    with pytest.raises(ConfigError, match="same file"):
        convert(target, target)


def test_what_is_no_record_or_has_no_header_is_refused(tmp_path: Path) -> None:
    record = Record.create(tmp_path, "empty")
    assert list(read_record(record.folder)) == []
    with pytest.raises(ProtocolError, match="before the MRD header"):
        open_source(record.folder)
    (record.folder / MESSAGES).write_bytes(b"something else")
    with pytest.raises(ProtocolError, match="no scan record"):
        open_source(record.folder)
    with pytest.raises(ProtocolError, match="cannot be read as HDF5"):
        open_source(tmp_path)
