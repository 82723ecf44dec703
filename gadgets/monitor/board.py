"""What the monitor knows of scans, from their events; no more of it than a page can show.

Every event is taken as it comes: any of them may have been dropped. A slice has one row, that of
its latest repetition.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..report.pictures import png_bytes
from .feed import Json
from .words import told

MOST_SCANS = 6
MOST_SLICES = 1000
_OF_A_MASK = ("asked", "applied", "fallback", "mask", "nack")


@dataclass(slots=True)
class _Row:
    """One slice."""

    repetition: int
    got: dict[int, None] = field(default_factory=dict)  # counters, in the order of arrival
    what: Json = field(default_factory=dict)
    pixels: NDArray[np.uint8] | None = None  # (rows, columns, 1)
    changed: int = 0


@dataclass(slots=True)
class _Scan:
    """One session that has begun a scan, or failed before."""

    head: Json
    rows: dict[int, _Row] = field(default_factory=dict)
    changed: int = 0


class Board:
    """The latest scans. `version` counts what was taken; `changes` says what is new since then."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.version = 0
        self._clock = clock
        self._scans: dict[str, _Scan] = {}

    def take(self, event: Json, pixels: bytes = b"") -> None:
        """Note what has happened."""
        self.version += 1
        scan = self._scan(event["scan"])
        scan.changed = self.version
        kind = event["kind"]
        if "slice" in event:
            row = self._row(scan, event)
            if row is not None:
                row.changed = self.version
                _ROW[kind](scan, row, event, pixels)
        else:
            _HEAD[kind](scan, event, self._clock())

    def changes(self, since: int) -> list[Json]:
        """Return the scans, and of these the rows, that have changed since a version."""
        return [
            scan.head
            | {
                "rows": [
                    _shown(number, row, scan.head)
                    for number, row in sorted(scan.rows.items())
                    if row.changed > since
                ]
            }
            for scan in self._scans.values()
            if scan.changed > since
        ]

    def image(self, scan: str, slice_: int) -> bytes | None:
        """Return the latest image of a slice as PNG, None where there is none."""
        row = self._scans[scan].rows.get(slice_) if scan in self._scans else None
        return None if row is None or row.pixels is None else png_bytes(row.pixels)

    def _scan(self, name: str) -> _Scan:
        if name not in self._scans:
            if len(self._scans) >= MOST_SCANS:
                over = [n for n, scan in self._scans.items() if scan.head["state"] != "running"]
                del self._scans[(over or list(self._scans))[0]]
            self._scans[name] = _Scan(
                head={
                    "scan": name,
                    "state": "running",
                    "began": self._clock(),
                    "n_lines": 0,
                    "n_images": 0,
                    "n_fallbacks": 0,
                    "now": None,
                }
            )
        return self._scans[name]

    def _row(self, scan: _Scan, event: Json) -> _Row | None:
        """Return the row of an event, a new one of a new repetition; None for an older one."""
        number, repetition = event["slice"], event["repetition"]
        row = scan.rows.get(number)
        if row is None:
            if len(scan.rows) >= MOST_SLICES:
                return None
            row = scan.rows[number] = _Row(repetition=repetition)
        elif repetition > row.repetition:
            row.repetition, row.got = repetition, {}
            shared = scan.head.get("hello", {}).get("repetition") == "first"
            row.what = {key: row.what[key] for key in _OF_A_MASK if shared and key in row.what}
        elif repetition < row.repetition and event["kind"] != "image":
            return None
        return row


def _shown(number: int, row: _Row, head: Json) -> Json:
    state, why = told(row.what, head)
    return {
        "slice": number,
        "repetition": row.repetition,
        "got": list(row.got),
        "state": state,
        "why": why,
        **row.what,
    }


def _begun(scan: _Scan, event: Json, now: float) -> None:
    names = ("pipeline", "ky_min", "ky_max", "center", "slices", "repetitions")
    scan.head |= {"began": now, **{name: event[name] for name in names}}


def _hello(scan: _Scan, event: Json, now: float) -> None:
    names = ("acquirable", "calibration", "n_lines", "deadline_ms", "repetition")
    scan.head["hello"] = {name: event[name] for name in names}


def _ended(scan: _Scan, event: Json, now: float) -> None:
    scan.head |= {"state": "ended", "ended": now, "counts": event["counts"]}


def _failed(scan: _Scan, event: Json, now: float) -> None:
    scan.head |= {"state": "failed", "ended": now, "words": event["words"]}


def _lines(scan: _Scan, row: _Row, event: Json, pixels: bytes) -> None:
    row.got.update(dict.fromkeys(event["counters"]))
    scan.head["n_lines"] += len(event["counters"])
    scan.head["now"] = event["slice"]


def _mask(scan: _Scan, row: _Row, event: Json, pixels: bytes) -> None:
    names = ("reason", "sent", "enforced", "choice", "guard", "ms")
    row.what |= {"asked": event["counters"], "mask": {name: event[name] for name in names}}


def _applied(scan: _Scan, row: _Row, event: Json, pixels: bytes) -> None:
    row.what |= {"applied": event["counters"]}
    _fell_back(scan, row, event["fallback"])


def _nack(scan: _Scan, row: _Row, event: Json, pixels: bytes) -> None:
    row.what["nack"] = event["reason"]


def _frame(scan: _Scan, row: _Row, event: Json, pixels: bytes) -> None:
    row.what["frame"] = {"incomplete": event["incomplete"]}
    _fell_back(scan, row, event["fallback"])


def _fell_back(scan: _Scan, row: _Row, fallback: bool) -> None:
    scan.head["n_fallbacks"] += fallback and not row.what.get("fallback", False)
    row.what["fallback"] = fallback


def _image(scan: _Scan, row: _Row, event: Json, pixels: bytes) -> None:
    height, width = event["height"], event["width"]
    if len(pixels) == height * width > 0:
        row.pixels = np.frombuffer(pixels, np.uint8).reshape(height, width, 1)
    scan.head["n_images"] += 1
    made = scan.head["n_images"]
    row.what["image"] = {"n": made, "height": height, "width": width, "ms": event["ms"]}


_HEAD: dict[str, Any] = {"begun": _begun, "hello": _hello, "ended": _ended, "failed": _failed}
_ROW: dict[str, Any] = {
    "lines": _lines,
    "mask": _mask,
    "applied": _applied,
    "nack": _nack,
    "frame": _frame,
    "image": _image,
}
