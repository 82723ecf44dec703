"""The record of a scan while it is written; `gadgets.files.scan_record` has its layout."""

import json
import logging
import os
import shutil
import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..mrd.item_bytes import Buffer
from ..mrd.sockets import put_all

log = logging.getLogger(__name__)

MAGIC = b"MNETREC1"
MESSAGES = "messages.log"
MASKS = "masks.jsonl"
NOISE = "noise.json"
SUMMARY = "scan.json"
FRAME = struct.Struct("<II")  # of a message: length, CRC-32
DEFAULT_CAP = 8 << 30  # bytes of messages.log; full disks have stopped scanners


class Record:
    """The record of one scan while it is written; not safe for several threads at once.

    A full disk or the cap stops the logging with a warning, never the scan.
    """

    def __init__(self, folder: Path, cap_bytes: int) -> None:
        self.folder = folder
        self.cap_bytes = cap_bytes
        self.stopped = ""  # why it is no longer complete; empty while it is
        self._size = 0
        self._log = self._masks = -1
        try:
            self._log = _open_private(folder / MESSAGES)
            self._masks = _open_private(folder / MASKS)
            self._append([MAGIC])
        except OSError:
            self.close()
            raise

    @classmethod
    def create(cls, root: Path, name: str, cap_bytes: int = DEFAULT_CAP) -> "Record":
        """Start a record in a new folder below ``root``; a number is added to a name in use.

        Raises ValueError for what is no plain name, and OSError where nothing can be written. The
        folder is then taken away: it would pass for the record of a scan, and hold none.
        """
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ValueError(f"a record's name must be a plain folder name, got {name!r}")
        root = Path(root)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = 1
        while True:
            folder = root / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                number += 1
                continue
            try:
                return cls(folder, cap_bytes)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)  # made here, so nothing else is in it
                raise

    def message(self, data: Buffer | Sequence[Buffer]) -> None:
        """Log the bytes of one message, in one piece or several."""
        parts = [data] if isinstance(data, bytes | bytearray | memoryview) else data
        length = crc = 0
        for part in parts:
            length += memoryview(part).nbytes
            crc = zlib.crc32(part, crc)
        if self.stopped:
            return
        if self._size + FRAME.size + length > self.cap_bytes:
            self._stop(f"the cap of {self.cap_bytes} bytes is reached")
            return
        try:
            self._append([FRAME.pack(length, crc), *parts])
        except OSError as error:
            self._stop(str(error))

    def mask(self, direction: Literal["sent", "received"], header: Mapping[str, Any]) -> None:
        """Log a mask message with the time in seconds since 1970."""
        entry = {"time": time.time(), "direction": direction, "message": header}
        try:
            os.write(self._masks, json.dumps(entry).encode() + b"\n")
        except OSError as error:
            self._stop(str(error))

    def noise(self, text: str) -> None:
        """Keep the noise of an earlier measurement that this scan was whitened with."""
        try:
            with os.fdopen(_open_private(self.folder / NOISE), "w") as file:
                file.write(text)
        except OSError as error:
            log.warning("%s: the noise is not recorded: %s", self.folder, error)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, replacing an earlier one in one step, and close the record."""
        path = self.folder / SUMMARY
        part = path.with_suffix(".part")
        try:
            with os.fdopen(_open_private(part), "w") as file:
                json.dump({**summary, "record_stopped": self.stopped}, file, indent=1)
                file.write("\n")
            os.replace(part, path)
        except OSError as error:
            log.warning("%s: the summary is not recorded: %s", self.folder, error)
        self.close()

    def close(self) -> None:
        """Close the files, as after a scan that broke off; harmless if they are closed."""
        for descriptor in (self._log, self._masks):
            if descriptor >= 0:
                os.close(descriptor)
        self._log = self._masks = -1

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        log.warning("%s: no more messages are recorded: %s", self.folder, reason)

    def _append(self, parts: Sequence[Buffer]) -> None:
        self._size += put_all(partial(os.writev, self._log), parts)


def _open_private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
