"""The record of one scan: what came in, which masks went out, what became of them.

A folder, private to its owner, with

    messages.log   every message received, as its bytes on the wire
    masks.jsonl    every mask message sent and received, one JSON object a line
    noise.json     the stored noise that whitened the scan, where it was not among the messages
    scan.json      the summary: from the first line on with the state `running` and the pipeline,
                   at the end with all there is to say, and the state `ended` or `failed`

``messages.log`` is the magic and then, per message, u32 length, u32 CRC-32 and the bytes. It is
only appended to and never buffered here, so it can be read up to the last whole message even if
the process was killed; and where bytes have changed on the disk, the next message is found again
by its length and checksum.
"""

import fcntl
import json
import logging
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ProtocolError
from ..mrd.messages import IDS, Message, buffer_reader, read_message
from .writer import FRAME, MAGIC, MASKS, MESSAGES, SUMMARY

log = logging.getLogger(__name__)
_SHORTEST = 2  # bytes of a message: its id
_LOOK = 1 << 20  # bytes that are searched at once


def is_record(path: Path) -> bool:
    """Say whether a path is the folder of a record."""
    return (path / MESSAGES).is_file()


def is_being_written(path: Path) -> bool:
    """Say whether a process still writes a record."""
    with (path / MESSAGES).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False


def read_record(path: Path) -> Iterator[Message]:
    """Read the messages of a record that are whole.

    What is damaged or cut is passed over with a warning in the log. Raises ProtocolError if there
    is no record at the path, or a message was written that is none.
    """
    file_path = Path(path) / MESSAGES
    with file_path.open("rb") as file:
        beginning = file.read(len(MAGIC))
        if beginning != MAGIC:
            if MAGIC.startswith(beginning):  # the host was killed as it made the file
                return
            raise ProtocolError(f"{file_path} does not begin with {MAGIC!r}: no scan record")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            position, number = len(MAGIC), 0
            while position < len(content):
                start = _next_whole(content, position)
                if start != position:
                    log.warning(
                        "%s: message %d is damaged or cut, %d bytes are passed over",
                        file_path,
                        number,
                        start - position,
                    )
                if start == len(content):
                    return
                end = start + FRAME.size + FRAME.unpack_from(content, start)[0]
                data = bytearray(content[start + FRAME.size : end])  # writable, as from a socket
                try:
                    message = read_message(buffer_reader(data))
                except EOFError as error:  # as it was written: no host of ours did
                    raise ProtocolError(f"{file_path}: message {number}: {error}") from error
                yield message
                position, number = end, number + 1


def read_masks(path: Path) -> Iterator[dict[str, Any]]:
    """Read the mask messages of a record; lines that are damaged or cut give a warning."""
    file_path = Path(path) / MASKS
    if not file_path.exists():
        return
    for number, line in enumerate(file_path.read_bytes().splitlines(), 1):
        message = _json(line).get("message")
        if isinstance(message, dict) and isinstance(message.get("kind"), str):
            yield message
        else:
            log.warning("%s: line %d is damaged or cut, and passed over", file_path, number)


def read_summary(path: Path) -> dict[str, Any]:
    """Read the summary of a record; empty where there is none, or no whole one."""
    file_path = Path(path) / SUMMARY
    return _json(file_path.read_bytes()) if file_path.exists() else {}


def _json(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:  # of the text, or of its JSON
        return {}
    return value if isinstance(value, dict) else {}


def _next_whole(content: mmap.mmap, start: int) -> int:
    """Return where the next whole message begins, at `start` or behind it; the end if nowhere."""
    if _is_whole(content, start):
        return start
    last = len(content) - FRAME.size - _SHORTEST
    for low in range(start + 1, last + 1, _LOOK):
        for place in _candidates(content, low, min(low + _LOOK, last + 1)):
            if _is_whole(content, place):
                return place
    return len(content)


def _candidates(content: mmap.mmap, low: int, high: int) -> list[int]:
    """Return the places from `low` to `high` where a length and a known id stand."""
    there = np.frombuffer(content[low : high + FRAME.size + _SHORTEST - 1], np.uint8)
    n = high - low
    ids = there[8 : 8 + n].astype(np.uint16) | there[9 : 9 + n].astype(np.uint16) << 8
    found = np.flatnonzero(np.isin(ids, np.array(sorted(IDS), np.uint16)))
    return [low + int(place) for place in found]


def _is_whole(content: mmap.mmap, start: int) -> bool:
    """Say whether a message begins here: its length fits, and its checksum is right."""
    if start + FRAME.size + _SHORTEST > len(content):
        return False
    length, crc = FRAME.unpack_from(content, start)
    end = start + FRAME.size + length
    if length < _SHORTEST or end > len(content):
        return False
    with memoryview(content) as view, view[start + FRAME.size : end] as data:
        return bool(zlib.crc32(data) == crc)
