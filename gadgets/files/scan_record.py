"""The record of one scan: what came in, which masks went out, what became of them.

A folder, private to its owner, with

    messages.log   every message received, as its bytes on the wire
    masks.jsonl    every mask message sent and received, one JSON object a line
    noise.json     the stored noise that whitened the scan, where it was not among the messages
    scan.json      the summary: from the first line on with the state `running` and the pipeline,
                   at the end with all there is to say, and the state `ended` or `failed`

``messages.log`` is the magic and then, per message, u32 length, u32 CRC-32 and the bytes. It is
only appended to and never buffered here, so it can be read up to the last whole message even if
the process was killed.
"""

import logging
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import ProtocolError
from ..mrd.messages import Message, buffer_reader, read_message
from .record_writer import FRAME, MAGIC, MESSAGES

log = logging.getLogger(__name__)
_MAX_MESSAGE = 2 << 30  # above what the codec lets through


def is_record(path: Path) -> bool:
    """Say whether a path is the folder of a record."""
    return (path / MESSAGES).is_file()


def read_record(path: Path) -> Iterator[Message]:
    """Read the messages of a record, up to the last one that is whole.

    A damaged message ends the reading with a warning in the log, because what follows it cannot
    be trusted. Raises ProtocolError if there is no record at the path.
    """
    file_path = Path(path) / MESSAGES
    with file_path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ProtocolError(f"{file_path} does not begin with {MAGIC!r}: no scan record")
        number = 0
        while frame := file.read(FRAME.size):
            data = bytearray()
            if len(frame) == FRAME.size:
                length, crc = FRAME.unpack(frame)
                data = bytearray(file.read(min(length, _MAX_MESSAGE)))  # writable, as from a socket
            if len(frame) < FRAME.size or len(data) < length or zlib.crc32(data) != crc:
                log.warning("%s: message %d is damaged or cut, reading ends", file_path, number)
                return
            yield read_message(buffer_reader(data))
            number += 1
