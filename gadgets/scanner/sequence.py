"""The virtual scanner: plays a fully sampled file as an adaptive sequence would acquire it.

A slice is a row of shots: dummies, the calibration, and the lines of the mask, in the order of
`mnet.sequence.echo_order`. One slice after the other, it looks for the mask until the deadline;
interleaved, every slice has a shot in turn, and each mask is looked for once, when the slice's next
shot is due. It says what it applies, sends those lines and no others, and holds a fallback mask
from the start. Where the lines come from, and what they know of order and time, is
`gadgets.scanner.lines`; eddy currents are not modelled.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mnet.masks.line_plan import Bool, LinePlan
from mnet.sequence.echo_order import EchoOrder, Rows

from ..files.source import Source
from ..host.child_host import Address
from ..mask.messages import Hello, Scope
from ..mask.sequence_port import SequencePort
from ..mrd.geometry import SCAN_TOKEN, Geometry
from ..mrd.header_layouts import Flag
from ..mrd.header_xml import with_user_parameter
from ..mrd.items import Acquisition, Image
from .client import MrdClient, answered
from .lines import Lines, RecordedLines, SliceKey, SliceLines, slice_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceParameters:
    """How the scanner plays a file."""

    plan: LinePlan  # in rows: what may be acquired, what is calibration, how many in all
    fallback: Bool  # (ky,) rows taken where no mask comes in time
    deadline_ms: float = 1000.0  # after the last calibration line; unused where interleaved
    tr_ms: float = 0.0  # between lines; 0 plays as fast as the host takes them
    echo_order: EchoOrder = field(default_factory=EchoOrder)  # of lines in shots
    dummies: int = 0  # shots before the first line of a slice
    interleave: bool = False  # one shot of every slice in turn
    repetition: Literal["each", "first"] = "first"
    ready_timeout_s: float = 60.0

    @property
    def group_size(self) -> int:
        """Lines of a shot."""
        return self.echo_order.train


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the scanner did for one slice of one repetition."""

    key: SliceKey
    counters: tuple[int, ...]  # the mask applied
    fallback: bool
    reason: str
    # Last calibration line sent -> mask accepted; None on fallback, and where nobody waited: for
    # the mask of the first repetition, and where slices are interleaved.
    latency_ms: float | None

    @property
    def answer(self) -> str:
        """How the slice came by its lines, in a few words for whoever watches."""
        if self.fallback:
            return "fallback"
        if self.latency_ms is None:
            return "nothing waited for"
        return f"{self.latency_ms:.1f} ms"


def play(
    source: Source,
    sequence: SequenceParameters,
    address: Address,
    config: str,
    on_slice: Callable[[Played], None] | None = None,
    lines: Lines | None = None,
    *,
    must_answer: bool = False,
) -> tuple[list[Played], list[Image]]:
    """Run the closed loop; returns what was applied and the images that came back.

    Without `lines` those of the file are sent. Where nobody is at the mask endpoint, every slice is
    measured with the fallback, unless somebody `must_answer`.

    Raises
    ------
    PeerError
        If the host reports an error, or nobody answers who must.
    """
    geometry = source.geometry
    token = str(uuid.uuid4())
    header = with_user_parameter(source.header, SCAN_TOKEN, token)
    keys = slice_keys(source.acquisitions)
    if sequence.interleave:
        sequence = replace(sequence, deadline_ms=_until_next_shot_ms(sequence, keys))
    with (
        SequencePort(
            address.mask_endpoint, hello_of(geometry, sequence, token), address.mask_keys
        ) as port,
        MrdClient(address.host, address.port) as client,
    ):
        if must_answer:
            answered(port, address.mask_endpoint)
        client.start(config, header)
        ready = port.wait_ready(sequence.ready_timeout_s)
        lines = RecordedLines(source.acquisitions, geometry) if lines is None else lines
        client.send_all(lines.noise)
        scan = _Loop(port, geometry, sequence, lines, ready)
        pace = _Pace(sequence.tr_ms / 1000)
        for together in _rounds(keys, sequence.interleave):
            # a slice's next shot is prepared when it is due: that is when it looks for its mask
            running = [(key, scan.shots(key)) for key in together]
            while running:
                still = []
                for key, shots in running:
                    shot = next(shots, None)
                    if shot is None:
                        if on_slice is not None:
                            on_slice(scan.played[key])
                    else:
                        client.send_all(pace(shot, sequence.group_size))
                        still.append((key, shots))
                running = still
        return [scan.played[key] for key in keys], client.finish()


def _rounds(keys: list[SliceKey], interleave: bool) -> list[list[SliceKey]]:
    """Return the slices that are played at the same time: one, or all of a repetition."""
    if not interleave:
        return [[key] for key in keys]
    repetitions = dict.fromkeys(repetition for _, repetition in keys)
    return [[key for key in keys if key[1] == each] for each in repetitions]


def _until_next_shot_ms(sequence: SequenceParameters, keys: list[SliceKey]) -> float:
    """Return how long a slice waits for its next turn after its last calibration line."""
    n_slices = min(len(together) for together in _rounds(keys, interleave=True))
    return ((n_slices - 1) * sequence.group_size + 1) * sequence.tr_ms


class _Loop:
    """The shots of every slice, and what was decided for it."""

    def __init__(
        self,
        port: SequencePort,
        geometry: Geometry,
        sequence: SequenceParameters,
        lines: Lines,
        ready: bool,
    ) -> None:
        self.played: dict[SliceKey, Played] = {}
        self._port, self._geometry, self._sequence = port, geometry, sequence
        self._lines, self._ready = lines, ready

    def shots(self, key: SliceKey) -> Iterator[list[Acquisition]]:
        """Give the lines of one shot after the other; a dummy has none."""
        sequence, lines = self._sequence, self._lines.of(key)
        order, plan = sequence.echo_order, sequence.plan
        for _ in range(sequence.dummies):
            lines.dummy()
            yield []
        yield from _sent(lines, order.calibration(plan), Flag.MASK_CALIBRATION)
        result = self.played[key] = self._decided(key)
        if not sequence.interleave:
            lines.wait(_waited_ms(result, sequence))
        mask = np.zeros_like(plan.calibration)
        mask[self._geometry.row(np.array(result.counters))] = True
        yield from _sent(lines, order.adaptive(mask, plan), 0)

    def _decided(self, key: SliceKey) -> Played:
        first = self.played.get((key[0], 0)) if self._sequence.repetition == "first" else None
        if first is not None:
            return replace(first, key=key, latency_ms=None)
        result = _decide(self._port, self._geometry, self._sequence, key)
        if not self._ready and result.fallback:
            return replace(result, reason=f"not ready: {self._port.refused or result.reason}")
        return result


def _sent(lines: SliceLines, shots: Rows, flag: int) -> Iterator[list[Acquisition]]:
    for i, shot in enumerate(shots):
        last = not flag and i == len(shots) - 1
        yield _flagged(lines.shot(shot), flag, first=bool(flag) and i == 0, last=last)


def _waited_ms(played: Played, sequence: SequenceParameters) -> float:
    """Return how long the slice's sequence had nothing to measure."""
    if played.latency_ms is not None:
        return played.latency_ms
    return sequence.deadline_ms if played.fallback else 0.0


def _decide(
    port: SequencePort, geometry: Geometry, sequence: SequenceParameters, key: SliceKey
) -> Played:
    """Take the mask of a slice or, at the deadline, the fallback, and say so to the other side."""
    sent = time.monotonic()
    scope = Scope(slice=key[0], repetition=key[1] if sequence.repetition == "each" else 0)
    # interleaved, the deadline has passed by the time that the slice has its turn
    until = sent if sequence.interleave else sent + sequence.deadline_ms / 1000
    mask = port.poll(scope, until)
    latency_ms = 1e3 * (time.monotonic() - sent)
    if mask is not None:
        counters, reason, message_id = tuple(mask.counters), mask.reason, mask.message_id
    else:
        counters, message_id = _counters(geometry, sequence.fallback), None
        reason = port.refused or f"no mask within {sequence.deadline_ms:g} ms"
    port.applied(scope, counters, fallback=mask is None, reason=reason, message_id=message_id)
    return Played(
        key=key,
        counters=counters,
        fallback=mask is None,
        reason=reason,
        latency_ms=None if mask is None or sequence.interleave else latency_ms,
    )


def hello_of(geometry: Geometry, sequence: SequenceParameters, token: str) -> Hello:
    """Say what this sequence fixes for a scan."""
    return Hello(
        scan_token=token,
        ky_min=geometry.ky_min,
        ky_max=geometry.ky_max,
        center=geometry.center,
        acquirable=_counters(geometry, sequence.plan.acquirable),
        calibration=_counters(geometry, sequence.plan.calibration),
        n_lines=sequence.plan.n_lines,
        group_size=sequence.group_size,
        repetition=sequence.repetition,
        fallback=_counters(geometry, sequence.fallback),
        deadline_ms=sequence.deadline_ms,
        scanner="mnet virtual scanner",
    )


def _flagged(lines: list[Acquisition], flag: int, first: bool, last: bool) -> list[Acquisition]:
    """Mark lines as this sequence would: the file's own ends of slices hold no longer."""
    marked = []
    for i, line in enumerate(lines):
        header = line.header.copy()
        flags = int(header["flags"]) & ~(Flag.FIRST_IN_SLICE | Flag.LAST_IN_SLICE) | flag
        if first and i == 0:
            flags |= Flag.FIRST_IN_SLICE
        if last and i == len(lines) - 1:
            flags |= Flag.LAST_IN_SLICE
        header["flags"] = flags
        marked.append(replace(line, header=header))
    return marked


class _Pace:
    """One line per repetition time, on an absolute clock so that delays do not add up."""

    def __init__(self, tr_s: float) -> None:
        self._tr_s, self._due = tr_s, time.monotonic()

    def __call__(self, lines: list[Acquisition], n_echoes: int) -> Iterator[Acquisition]:
        """Give each line when it is due; a shot without lines takes its time, too."""
        # after a wait for a mask the clock starts again: what was lost is not caught up
        late = time.monotonic() - self._due > self._tr_s * n_echoes
        start = time.monotonic() if late else self._due
        for i, line in enumerate(lines):
            self._sleep(start + i * self._tr_s)
            yield line
        self._due = start + max(len(lines), n_echoes) * self._tr_s
        if not lines:
            self._sleep(self._due)

    def _sleep(self, until: float) -> None:
        if self._tr_s > 0:
            time.sleep(max(0.0, until - time.monotonic()))


def _counters(geometry: Geometry, rows: Bool) -> tuple[int, ...]:
    return tuple(int(c) for c in geometry.counter(np.flatnonzero(rows)))
