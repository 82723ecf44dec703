"""Masks in a file, for scans that cannot wait for one: decided after the first, obeyed in the next.

JSON: the hello that the masks answer, and per slice what the mask channel would have carried. Both
ends check them by the rules of the channel, `check_mask`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .in_band import read_hello
from .messages import Hello, as_record, check_mask

SCHEMA = "mnet-masks/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What one slice shall measure, and why."""

    slice: int
    counters: tuple[int, ...]  # ascending, calibration included
    fallback: bool
    reason: str
    choice: str = ""  # which mask was chosen and why, where the sampler says so
    guard: str = ""  # why the slice is none for the sampler
    seconds: float = 0.0  # it took to decide


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFile:
    """The masks of a scan; raises ValueError where one breaks the rules of the hello."""

    hello: Hello
    sampler_sha256: str
    slices: tuple[Decided, ...]

    def __post_init__(self) -> None:
        numbers = [one.slice for one in self.slices]
        if numbers != list(range(len(numbers))) or not numbers:
            raise ValueError(f"slices: expected 0, 1, 2 ..., got {numbers[:5]}")
        for one in self.slices:
            wrong = check_mask(self.hello, one.counters)
            if wrong:
                raise ValueError(f"slice {one.slice}: {wrong}")


def write_masks(path: Path, masks: MaskFile) -> None:
    """Write masks; ConfigError where the file cannot be written."""
    document = {
        "schema": SCHEMA,
        "sampler_sha256": masks.sampler_sha256,
        "hello": as_record(masks.hello),
        "slices": [asdict(one) for one in masks.slices],
    }
    try:
        path.write_text(json.dumps(document) + "\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error


def read_masks(path: Path) -> MaskFile:
    """Read masks.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ConfigError
        If it holds no masks, or one that breaks the rules of its hello; it says which.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"expected a JSON object of schema {SCHEMA}")
        return MaskFile(
            hello=read_hello(json.dumps(document["hello"]), "file"),
            sampler_sha256=str(document["sampler_sha256"]),
            slices=tuple(_decided(one) for one in document["slices"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ConfigError(f"{path} has no masks as `mnet decide` writes them: {what}") from error


def _decided(entry: dict[str, Any]) -> Decided:
    return Decided(
        slice=_integer(entry["slice"]),
        counters=_counters(entry["counters"]),
        fallback=bool(entry["fallback"]),
        **{name: str(entry.get(name, "")) for name in ("reason", "choice", "guard")},
        seconds=float(entry.get("seconds", 0.0)),
    )


def _counters(values: Sequence[Any]) -> tuple[int, ...]:
    counters = tuple(_integer(value) for value in values)
    if list(counters) != sorted(counters):
        raise ValueError(f"counters: expected ascending ones, got {list(counters[:5])}")
    return counters


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"expected a whole number, got {value!r}")
    return value
