"""The record of a scan while it is written; `gadgets.records.reader` has its layout."""

import fcntl
import json
import logging
import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
RUNNING, ENDED, FAILED = "running", "ended", "failed"  # states of a summary
TELL_S = 1.0  # between summaries of a scan that runs
DEFAULT_CAP = 8 << 30  # bytes of messages.log; full disks have stopped scanners


class Record:
    """The record of one scan while it is written; its messages are for one thread.

    A full disk or the cap stops the logging with a warning, and `on_stop` is told why; it never
    stops the scan. While the record is open, `MESSAGES` is locked (`flock`).
    """

    def __init__(
        self,
        folder: Path,
        cap_bytes: int = DEFAULT_CAP,
        on_stop: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.folder = folder
        self.cap_bytes = cap_bytes
        self.stopped = ""  # why it is no longer complete; empty while it is
        self.persisted: int | None = None  # scan_counter of the last line that is in the file
        self._on_stop = on_stop
        self._about: dict[str, Any] = {}
        self._finished = False
        self._told = 0.0  # when the summary was last brought up to date
        self._size = 0
        self._log = self._masks = -1
        try:
            self._log = _open_private(folder / MESSAGES)
            with suppress(OSError):  # some network file systems know no locks
                fcntl.flock(self._log, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self._masks = _open_private(folder / MASKS)
            self._append([MAGIC])
        except OSError:
            self._close_files()
            raise

    @classmethod
    def create(
        cls,
        root: Path,
        name: str,
        cap_bytes: int = DEFAULT_CAP,
        on_stop: Callable[[str], None] = lambda why: None,
    ) -> "Record":
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
                return cls(folder, cap_bytes, on_stop)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)  # made here, so nothing else is in it
                raise

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write a summary with the state `running`, which is brought up to date every second."""
        self._about = dict(about)
        self._tell({"state": RUNNING})

    def message(self, data: Buffer | Sequence[Buffer], scan_counter: int | None = None) -> None:
        """Log the bytes of one message, in one piece or several; a line's with its counter."""
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
            return
        if scan_counter is not None:
            self.persisted = scan_counter
            if time.monotonic() - self._told > TELL_S and self._about:
                self._tell({"state": RUNNING})

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
        """Write the summary, replacing an earlier one in one step, and close the record.

        Its state is `failed` where it has an `error`, and `ended` otherwise.
        """
        self._finished = True
        self._tell({"state": FAILED if summary.get("error") else ENDED, **summary})
        self._close_files()

    def close(self, error: str = "") -> None:
        """Close the record of a scan that did not come to its summary; harmless if it did."""
        if self._about and not self._finished:
            self.finish({"error": error})
        self._close_files()

    def _tell(self, more: Mapping[str, Any]) -> None:
        """Replace the summary in one step, so that there is a whole one at all times."""
        self._told = time.monotonic()
        path = self.folder / SUMMARY
        part = path.with_suffix(".part")
        mine = {"record_stopped": self.stopped, "persisted_scan_counter": self.persisted}
        try:
            with os.fdopen(_open_private(part, os.O_TRUNC), "w") as file:
                json.dump({**self._about, **more, **mine}, file, indent=1)
                file.write("\n")
            os.replace(part, path)
        except OSError as error:
            log.warning("%s: the summary is not recorded: %s", self.folder, error)
            with suppress(OSError):
                part.unlink()

    def _close_files(self) -> None:
        for descriptor in (self._log, self._masks):
            if descriptor >= 0:
                os.close(descriptor)
        self._log = self._masks = -1

    def _stop(self, reason: str) -> None:
        if not self.stopped:
            self._on_stop(reason)
        self.stopped = reason
        log.warning("%s: no more messages are recorded: %s", self.folder, reason)

    def _append(self, parts: Sequence[Buffer]) -> None:
        self._size += put_all(partial(os.writev, self._log), parts)


def _open_private(path: Path, flags: int = os.O_APPEND) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
