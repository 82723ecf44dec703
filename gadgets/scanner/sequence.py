"""The virtual scanner: plays a fully sampled file as an adaptive sequence would acquire it.

Per slice it sends the calibration lines, looks for the mask until the deadline, says what it
applies, and sends those lines and no others. It holds a fallback mask from the start and, once the
scan has begun, waits for nothing else. What it does not model: reordering ky changes the effective
echo time of a turbo spin echo, eddy currents and steady states; the data are those of the file.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mnet.masks.line_plan import Bool, LinePlan

from ..files.source import Source
from ..host.child_host import Address
from ..mask.messages import Hello, Scope
from ..mask.sequence_port import SequencePort
from ..mrd.geometry import SCAN_TOKEN, Geometry
from ..mrd.header_layouts import Flag, is_imaging
from ..mrd.header_xml import with_user_parameter
from ..mrd.items import Acquisition, Image
from .client import MrdClient

Order = Literal["linear", "centre-out"]
SliceKey = tuple[int, int]  # slice, repetition


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceParameters:
    """How the scanner plays a file."""

    plan: LinePlan  # in rows: what may be acquired, what is calibration, how many in all
    fallback: Bool  # (ky,) rows taken where no mask comes in time
    deadline_ms: float = 1000.0  # after the last calibration line
    tr_ms: float = 0.0  # between lines; 0 plays as fast as the host takes them
    order: Order = "linear"  # of the lines after the calibration
    group_size: int = 1  # echo train
    repetition: Literal["each", "first"] = "first"
    ready_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the scanner did for one slice of one repetition."""

    key: SliceKey
    counters: tuple[int, ...]  # the mask applied
    fallback: bool
    reason: str
    # Last calibration line sent -> mask accepted; None on fallback, and where the mask is that of
    # the first repetition, for which nobody waited again.
    latency_ms: float | None

    @property
    def answer(self) -> str:
        """How the slice came by its lines, in a few words for whoever watches."""
        if self.fallback:
            return "fallback"
        if self.latency_ms is None:
            return "mask of the first repetition"
        return f"{self.latency_ms:.1f} ms"


def play(
    source: Source,
    sequence: SequenceParameters,
    address: Address,
    config: str,
    on_slice: Callable[[Played], None] | None = None,
) -> tuple[list[Played], list[Image]]:
    """Run the closed loop; returns what was applied and the images that came back.

    Raises
    ------
    PeerError
        If the host reports an error.
    """
    geometry = source.geometry
    token = str(uuid.uuid4())
    header = with_user_parameter(source.header, SCAN_TOKEN, token)
    played: list[Played] = []
    with (
        SequencePort(
            address.mask_endpoint, hello_of(geometry, sequence, token), address.mask_keys
        ) as port,
        MrdClient(address.host, address.port) as client,
    ):
        client.start(config, header)
        ready = port.wait_ready(sequence.ready_timeout_s)
        noise, scopes = _by_scope(source)
        client.send_all(noise)
        first: dict[int, Played] = {}  # by slice, where one mask spans all repetitions
        for key, lines in scopes.items():
            calibration = _counters(geometry, sequence.plan.calibration)
            begin = [line for line in lines if _counter(line) in calibration]
            client.send_all(_paced(_flagged(begin, Flag.MASK_CALIBRATION), sequence.tr_ms))
            if key[0] in first:
                result = replace(first[key[0]], key=key, latency_ms=None)
            else:
                result = _decide(port, geometry, sequence, key)
                if not ready and result.fallback:
                    result = replace(result, reason=f"not ready: {port.refused or result.reason}")
            if sequence.repetition == "first":
                first.setdefault(key[0], result)
            chosen = set(result.counters) - set(calibration)
            rest = [line for line in lines if _counter(line) in chosen]
            rest = _flagged(_ordered(rest, geometry, sequence.order), 0, last=True)
            client.send_all(_paced(rest, sequence.tr_ms))
            played.append(result)
            if on_slice is not None:
                on_slice(result)
        return played, client.finish()


def _decide(
    port: SequencePort, geometry: Geometry, sequence: SequenceParameters, key: SliceKey
) -> Played:
    """Take the mask of a slice or, at the deadline, the fallback, and say so to the other side."""
    sent = time.monotonic()
    scope = Scope(slice=key[0], repetition=key[1] if sequence.repetition == "each" else 0)
    mask = port.poll(scope, sent + sequence.deadline_ms / 1000)
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
        latency_ms=None if mask is None else latency_ms,
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


def _by_scope(source: Source) -> tuple[list[Acquisition], dict[SliceKey, list[Acquisition]]]:
    """Split a file into noise readouts and the imaging lines of each slice and repetition."""
    noise: list[Acquisition] = []
    scopes: dict[SliceKey, list[Acquisition]] = {}
    for line in source.acquisitions:
        flags = int(line.header["flags"])
        if flags & Flag.NOISE:
            noise.append(line)
        elif is_imaging(flags):
            key = int(line.header["slice"]), int(line.header["repetition"])
            scopes.setdefault(key, []).append(line)
    return noise, dict(sorted(scopes.items(), key=lambda entry: (entry[0][1], entry[0][0])))


def _flagged(lines: list[Acquisition], flag: int, last: bool = False) -> list[Acquisition]:
    """Mark lines as this sequence would: the file's own ends of slices hold no longer."""
    marked = []
    for i, line in enumerate(lines):
        header = line.header.copy()
        flags = int(header["flags"]) & ~(Flag.FIRST_IN_SLICE | Flag.LAST_IN_SLICE) | flag
        if flag and i == 0:
            flags |= Flag.FIRST_IN_SLICE
        if last and i == len(lines) - 1:
            flags |= Flag.LAST_IN_SLICE
        header["flags"] = flags
        marked.append(replace(line, header=header))
    return marked


def _paced(lines: list[Acquisition], tr_ms: float) -> Iterator[Acquisition]:
    """Yield one line per repetition time, on an absolute clock so that delays do not add up."""
    start = time.monotonic()
    for i, line in enumerate(lines):
        if tr_ms > 0:
            time.sleep(max(0.0, start + i * tr_ms / 1000 - time.monotonic()))
        yield line


def _ordered(lines: list[Acquisition], geometry: Geometry, order: Order) -> list[Acquisition]:
    if order == "centre-out":
        return sorted(lines, key=lambda line: abs(_counter(line) - geometry.center))
    return sorted(lines, key=_counter)


def _counter(line: Acquisition) -> int:
    return int(line.header["kspace_encode_step_1"])


def _counters(geometry: Geometry, rows: Bool) -> tuple[int, ...]:
    return tuple(int(c) for c in geometry.counter(np.flatnonzero(rows)))
