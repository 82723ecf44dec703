"""What the test bench saw of a vendor's sequence: no verdicts, no I/O, instants in seconds."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from ..mask.messages import Ack, Applied, Hello, MaskMessage, Nack, Scope
from ..mrd.geometry import Geometry

Trial = Literal[
    "impostor",  # the whole scan, with a host's key that is not the one agreed on
    "ordinary",
    "budget",
    "window",
    "group-size",
    "calibration",
    "silence",
    "late",
    "duplicate",
    "older",
    "foreign",
    "oversized",
    "malformed",
    "restart",
]
TRIALS = tuple(trial for trial in get_args(Trial) if trial != "impostor")  # in one scan
Group = tuple[int, ...]  # contrast, average, phase, set, repetition: one mask each


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One imaging readout as it arrived."""

    counter: int
    flags: int
    group: Group
    at: float


@dataclass(slots=True)
class ScopeTrace:
    """One scope: what the bench did to it and what came of it."""

    scope: Scope
    trial: Trial
    lines: list[Line] = field(default_factory=list)
    calibrated_at: float | None = None  # the last calibration line is in
    applied: list[tuple[Applied, float]] = field(default_factory=list)
    offered: list[MaskMessage] = field(default_factory=list)  # valid ones
    refusable: list[MaskMessage] = field(default_factory=list)  # to be answered with a nack
    n_garbage: int = 0
    replies: list[Ack | Nack] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # reasons of `error` messages

    def acks(self, mask: MaskMessage) -> int:
        """Count the acks of a mask."""
        return sum(isinstance(r, Ack) and r.message_id == mask.message_id for r in self.replies)

    def nack(self, mask: MaskMessage) -> Nack | None:
        """Return the nack of a mask, if it came."""
        for reply in self.replies:
            if isinstance(reply, Nack) and reply.message_id == mask.message_id:
                return reply
        return None

    def answered(self) -> bool:
        """Say whether everything that the bench sent has its answer."""
        masks = all(self.acks(m) or self.nack(m) for m in [*self.offered, *self.refusable])
        return masks and len(self.errors) >= self.n_garbage

    def by_group(self) -> dict[Group, list[Line]]:
        """Return the lines of each image: contrast, average and so on."""
        groups: dict[Group, list[Line]] = {}
        for line in self.lines:
            groups.setdefault(line.group, []).append(line)
        return groups


@dataclass(slots=True)
class ScanTrace:
    """One scan: an MRD connection from configuration to CLOSE, and the hello that belongs to it."""

    impostor: bool = False
    geometry: Geometry | None = None
    hello: Hello | None = None
    hello_at: float | None = None
    first_line_at: float | None = None
    scopes: dict[Scope, ScopeTrace] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)  # what broke the stream or the hello
    strays: list[str] = field(default_factory=list)  # messages that fit no scope
    closed: bool = False  # the sequence said CLOSE

    def token(self) -> str | None:
        """Return the scan token of the MRD header."""
        return None if self.geometry is None else self.geometry.scan_token
