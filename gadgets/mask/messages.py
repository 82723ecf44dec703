"""What is said on the mask channel, contract adaptive-mask/1, and the rules a mask must obey.

`gadgets.mask.codec` turns these into frames and back. A counter is ``kspace_encode_step_1``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA_ID = "adaptive-mask/1"
MAX_TEXT = 200  # characters of any free text, as in the schema
IN_BAND_HELLO = "mnet_hello"  # how an MRD header, or a FIRE client's parameter, calls a hello
BROKEN = "the sequence's connection broke"  # a welcome's reason: it may come back
PLAN = "mnet_plan"  # the MRD header's userParameterString with the hello of a scan in two parts
N_LINES = "mnet_n_lines"  # and that with the number of lines of every mask
Header = dict[str, Any]
NackReason = Literal["late", "stale", "foreign", "invalid", "unpaired", "disagreement"]
ErrorReason = Literal["malformed", "oversized", "no-hello", "conflict", "role"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which lines one mask spans: all contrasts and averages of a slice and repetition."""

    slice: int
    repetition: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the sequence fixes for a whole scan; raises ValueError if it contradicts itself."""

    scan_token: str
    ky_min: int
    ky_max: int
    center: int  # counter of the centre of k-space
    acquirable: tuple[int, ...]  # counters that can be measured
    calibration: tuple[int, ...]  # counters, part of every mask
    n_lines: int  # of every mask, calibration included
    group_size: int = 1  # echo train; n_lines minus calibration is a multiple of it
    repetition: Literal["each", "first"] = "first"
    fallback: tuple[int, ...]  # counters
    deadline_ms: float  # after the last calibration line
    scanner: str = ""

    def __post_init__(self) -> None:
        if not self.ky_min <= self.center <= self.ky_max:
            raise ValueError(f"center: {self.center} is outside {self.ky_min}..{self.ky_max}")
        for name in ("acquirable", "calibration", "fallback"):
            counters: tuple[int, ...] = getattr(self, name)
            if not counters or list(counters) != sorted(set(counters)):
                raise ValueError(f"{name}: expected ascending counters, at least one")
        outside = [c for c in self.acquirable if not self.ky_min <= c <= self.ky_max]
        if outside:
            raise ValueError(f"acquirable: {outside[:5]} outside {self.ky_min}..{self.ky_max}")
        wrong = check_mask(self, self.fallback)
        if wrong:
            raise ValueError(f"fallback mask: {wrong}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconHello:
    """A reconstruction offers itself for a scan."""

    scan_token: str
    warm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The binder's word on a scan: paired or not and why, ready once paired and warm."""

    scan_token: str
    paired: bool
    ready: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskMessage:
    """The lines that one scope shall acquire."""

    message_id: str
    scan_token: str
    sequence_no: int
    scope: Scope
    ky_min: int
    ky_max: int
    counters: tuple[int, ...]  # ascending, calibration included
    model: str  # hash of the weights
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The mask is valid and in the sequence's inbox."""

    scan_token: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    """The mask will not be used; without `message_id`, recon disagrees with the hello."""

    scan_token: str
    message_id: str | None
    reason: NackReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the sequence measures in one scope, said before the first adaptive line."""

    scan_token: str
    scope: Scope
    ky_min: int
    ky_max: int
    counters: tuple[int, ...]  # ascending
    fallback: bool
    reason: str
    message_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Finds out whether a peer can still be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """A peer leaves."""

    scan_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMessage:
    """A message was dropped."""

    reason: ErrorReason
    detail: str


Message = (
    Hello
    | ReconHello
    | Welcome
    | MaskMessage
    | Ack
    | Nack
    | Applied
    | Heartbeat
    | Bye
    | ErrorMessage
)

TAGS: Mapping[type, Header] = {
    Hello: {"kind": "hello", "role": "sequence"},
    ReconHello: {"kind": "hello", "role": "recon"},
    Welcome: {"kind": "welcome"},
    MaskMessage: {"kind": "mask"},
    Ack: {"kind": "ack"},
    Nack: {"kind": "nack"},
    Applied: {"kind": "applied"},
    Heartbeat: {"kind": "heartbeat"},
    Bye: {"kind": "bye"},
    ErrorMessage: {"kind": "error"},
}


def check_mask(hello: Hello, counters: Sequence[int]) -> str | None:
    """Say why `counters` are no mask for this scan, or None; both ends ask before they use one."""
    chosen, calibration = set(counters), set(hello.calibration)
    if len(chosen) != len(counters):
        return f"duplicate: {len(counters)} counters, {len(chosen)} different ones"
    impossible = sorted(chosen.difference(hello.acquirable))
    if impossible:
        return f"window: counters {impossible[:5]} are not acquirable"
    missing = sorted(calibration - chosen)
    if missing:
        return f"calibration missing: counters {missing[:5]}"
    adaptive = len(chosen) - len(calibration)
    if adaptive % hello.group_size:
        return f"group size: {adaptive} adaptive lines are no multiple of {hello.group_size}"
    if len(chosen) != hello.n_lines:
        return f"budget: expected {hello.n_lines} lines, got {len(chosen)}"
    return None


def check_scope(hello: Hello, scope: Scope) -> str | None:
    """Say why the scan has no such scope, or None."""
    if hello.repetition == "first" and scope.repetition != 0:
        return f"scope: repetition {scope.repetition}, but the first one's mask serves all"
    return None


def as_record(message: Message) -> Header:
    """Return a message as JSON values with its bitmaps as lists, for logs and the scan record."""
    record: Header = {"schema": SCHEMA_ID, **TAGS[type(message)]}
    for name in message.__slots__:
        value = getattr(message, name)
        if isinstance(value, Scope):
            value = {"slice": value.slice, "repetition": value.repetition}
        record[name] = list(value) if isinstance(value, tuple) else value
    return record
