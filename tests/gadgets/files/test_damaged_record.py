"""Records whose bytes have changed on the disk, or that end in the middle of something."""

import json
import logging
import random
import statistics
from pathlib import Path

import pytest

from gadgets.mrd.messages import (
    Close,
    ConfigFile,
    Header,
    Message,
    message_buffers,
    write_message,
)
from gadgets.records.reader import is_being_written, read_masks, read_record, read_summary
from gadgets.records.writer import FRAME, MAGIC, MASKS, MESSAGES, SUMMARY, Record
from gadgets.scanner.replay import of_record
from tests.gadgets.helpers.synthetic import scanned

SCAN = scanned(n_ky=64)
MESSAGE: list[Message] = [ConfigFile("a.xml"), Header(SCAN.header), *SCAN.lines(), Close()]
HELLO = {
    "kind": "hello",
    "role": "sequence",
    "scan_token": "t",
    "ky_min": 0,
    "ky_max": 63,
    "center": 32,
    "acquirable": list(range(64)),
    "calibration": list(range(24, 40)),
    "n_lines": 32,
    "fallback": list(range(16, 48)),
    "deadline_ms": 100.0,
}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    record = Record.create(tmp_path, "scan")
    for message in MESSAGE:
        record.message(message_buffers(message))
    record.close()
    return record.folder


def whole(folder: Path) -> list[bytes]:
    return [write_message(message) for message in read_record(folder)]


def test_one_flipped_bit_costs_the_message_it_is_in_and_no_other(
    record: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it is: in a length, a checksum, an id or the samples."""
    caplog.set_level(logging.CRITICAL)
    path, rng = record / MESSAGES, random.Random(1)
    content, expected = path.read_bytes(), [write_message(message) for message in MESSAGE]
    lost = []
    for _ in range(60):
        damaged = bytearray(content)
        damaged[rng.randrange(len(MAGIC), len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        found = whole(record)
        assert [one for one in expected if one in found] == found, "in order, and nothing else"
        lost.append(len(expected) - len(found))
    assert max(lost) <= 1
    assert statistics.median(lost) == 1


@pytest.mark.parametrize("part", ["length", "checksum", "id", "samples"])
def test_what_is_damaged_is_told_with_its_place(
    record: Path, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    path = record / MESSAGES
    content, expected = bytearray(path.read_bytes()), [write_message(m) for m in MESSAGE]
    at = len(MAGIC) + sum(FRAME.size + len(message) for message in expected[:31])
    content[at + {"length": 1, "checksum": 4, "id": 8, "samples": 600}[part]] ^= 0x40
    path.write_bytes(content)
    assert whole(record) == expected[:31] + expected[32:]
    n_bytes = FRAME.size + len(expected[31])
    assert f"message 31 is damaged or cut, {n_bytes} bytes are passed over" in caplog.text


def test_a_length_that_reaches_behind_the_end_is_not_believed(record: Path) -> None:
    path = record / MESSAGES
    content = bytearray(path.read_bytes())
    content[len(MAGIC) : len(MAGIC) + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(whole(record)) == len(MESSAGE) - 1


def test_a_long_hole_is_searched_through_in_seconds(record: Path) -> None:
    path = record / MESSAGES
    content = path.read_bytes()
    at = len(MAGIC) + FRAME.size + len(write_message(MESSAGE[0]))
    hole = random.Random(2).randbytes(8 << 20)  # 8 MiB of anything
    path.write_bytes(content[:at] + hole + content[at:])
    assert len(whole(record)) == len(MESSAGE)


def lines_of(*messages: object) -> list[bytes]:
    return [json.dumps({"time": 0.0, "direction": "received", "message": m}).encode()
            for m in messages]  # fmt: skip


def test_damaged_masks_are_passed_over_and_the_others_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask = {"kind": "mask", "scope": {"slice": 3, "repetition": 0}, "counters": [1, 2]}
    good = lines_of(HELLO, mask)
    bad = lines_of(5, {"kid": 1}, {**mask, "scope": {"slics": 1}}, {**HELLO, "center": 99})
    cut = [b'{"time"', b"\xff\xfe\x00", b"[1, 2]", good[1][:-9]]
    (tmp_path / MASKS).write_bytes(b"\n".join([*bad, *good, *cut]))
    kinds = [message["kind"] for message in read_masks(tmp_path)]
    assert kinds == ["mask", "hello", "hello", "mask"]
    caplog.clear()
    hello, masks = of_record(tmp_path)
    assert hello is not None
    assert hello.center == 32
    assert [(scope.slice, counters) for scope, counters in masks.items()] == [(3, (1, 2))]
    assert sum("damaged" in entry.message for entry in caplog.records) == len(bad) + len(cut)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b'{"state": "run'])
def test_a_damaged_summary_is_none(tmp_path: Path, text: bytes) -> None:
    assert read_summary(tmp_path) == {}
    (tmp_path / SUMMARY).write_bytes(text)
    assert read_summary(tmp_path) == {}


def test_a_record_is_being_written_until_it_is_closed(tmp_path: Path) -> None:
    record = Record.create(tmp_path, "scan")
    assert is_being_written(record.folder)
    assert is_being_written(record.folder), "asking changes nothing"
    record.close()
    assert not is_being_written(record.folder)
