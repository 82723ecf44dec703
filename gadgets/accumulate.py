"""Lines to frames: placement, averages, and when a frame is complete."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mnet.masks import Bool

from .gadget import Gadget, Scan
from .items import (
    Acquisition,
    Complex,
    Flag,
    Frame,
    Ints,
    Item,
    Key,
    Mask,
    PreScan,
    flags_of,
    is_imaging,
    key_of,
)
from .mask_messages import Scope
from .readout import to_hybrid

log = logging.getLogger(__name__)
OUTSIDE = "lines outside the encoding limits"


@dataclass(slots=True)
class _Group:
    """One image on its way."""

    kspace: Complex  # (ky, coils, x), sum over averages; lines lie as they come
    n: Ints  # (ky,) how many averages of each row
    averages: set[tuple[int, int]] = field(default_factory=set)  # (row, average) received
    head: np.void | None = None  # of the line nearest to the centre
    ended: bool = False  # the sequence said that it was the last line
    reference: dict[int, Complex] = field(default_factory=dict)  # calibration-only lines, by row


@dataclass(slots=True)
class _Known:
    """What is known of one slice's mask."""

    mask: Mask | None = None
    calibration: Ints | None = None  # counters of its PreScan


@dataclass(frozen=True, kw_only=True)
class AccumulateFrame(Gadget):
    """Collect the lines of an image and yield it as soon as every line of its mask is there.

    The mask in force is the one sent to the sequence, or its fallback, whichever the lines are of;
    where no mask is in force, a frame ends with its last-in-slice flag or with all lines of the
    encoding limits. Frames that never end are counted, and become images only with
    `allow_incomplete`.
    """

    allow_incomplete: bool = False
    n_calibration: int = 24  # central lines for maps where no PreScan chose them

    def __post_init__(self) -> None:
        """Refuse fewer lines than maps need."""
        if self.n_calibration < 4:
            raise ValueError(f"n_calibration is {self.n_calibration}, expected 4 or more")

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Consume imaging lines and yield frames; everything else passes."""
        groups: dict[Key, _Group] = {}
        known: dict[tuple[int, int], _Known] = {}
        done: set[Key] = set()
        limits = scan.geometry.limit_counters
        for item in items:
            if isinstance(item, Mask | PreScan):
                entry = known.setdefault((item.key.slice, item.key.repetition), _Known())
                if isinstance(item, Mask):
                    entry.mask = item
                else:
                    entry.calibration = item.counters
                yield item
            elif isinstance(item, Acquisition):
                key = key_of(item.head)
                if key in done:
                    scan.counts["lines after their frame was complete"] += 1
                elif key.encoding != 0:
                    scan.counts["lines of other encoding spaces"] += 1
                elif self._add(scan, groups, key, item):
                    entry = _entry(known, key)
                    if _complete(scan, groups[key], entry.mask, limits):
                        done.add(key)
                        yield from self._finish(scan, key, groups.pop(key), entry, "")
            else:
                yield item
        for key, group in groups.items():
            yield from self._incomplete(scan, key, group, _entry(known, key))

    def _add(self, scan: Scan, groups: dict[Key, _Group], key: Key, item: Acquisition) -> bool:
        """Place a line; say whether it changed an image."""
        geometry, flags = scan.geometry, flags_of(item.head)
        counter = int(item.head["kspace_encode_step_1"])
        row = geometry.row(counter)
        reference = not is_imaging(flags)
        if reference and not is_imaging(flags & ~Flag.CALIBRATION):
            scan.counts["lines that are not imaging"] += 1
            return False
        if not geometry.ky_min <= counter <= geometry.ky_max or not 0 <= row < geometry.n_ky:
            scan.counts[OUTSIDE] += 1
            return False
        line = to_hybrid(item, geometry)
        if key not in groups:
            shape = (geometry.n_ky, line.data.shape[0], geometry.n_x)
            groups[key] = _Group(
                kspace=np.zeros(shape, np.complex64), n=np.zeros(geometry.n_ky, np.int64)
            )
        group = groups[key]
        if reference:
            group.reference[row] = line.data
            return False
        average = int(item.head["average"])
        if (row, average) in group.averages:
            scan.counts["doubled lines"] += 1
            return False
        group.averages.add((row, average))
        group.kspace[row] += line.data
        group.n[row] += 1
        centre = geometry.row(geometry.center)
        if group.head is None or abs(row - centre) < abs(
            geometry.row(int(group.head["kspace_encode_step_1"])) - centre
        ):
            group.head = item.head
        last_average = average + 1 >= geometry.n_averages
        group.ended |= bool(flags & Flag.LAST_IN_SLICE) and last_average
        return True

    def _incomplete(self, scan: Scan, key: Key, group: _Group, known: _Known) -> Iterator[Item]:
        """Count a frame that the stream's end found incomplete, and pass it on if asked to."""
        candidates = _candidates(known.mask) or [scan.geometry.limit_counters]
        there = group.n > 0
        share = f"{int(there.sum())}/{min(rows.size for rows in candidates)}"
        scan.counts["incomplete frames"] += 1
        log.warning("slice %d is incomplete: %s lines", key.slice, share)
        if self.allow_incomplete and group.head is not None:
            yield from self._finish(scan, key, group, known, share)

    def _finish(
        self, scan: Scan, key: Key, group: _Group, known: _Known, incomplete: str
    ) -> Iterator[Item]:
        geometry = scan.geometry
        mask = group.n > 0
        calibration = np.zeros_like(mask)
        if known.calibration is not None:
            calibration[geometry.row(known.calibration)] = True
        else:
            merged = mask.copy()
            merged[list(group.reference)] = True
            calibration = _central_block(merged, geometry.row(geometry.center), self.n_calibration)
            if group.reference and calibration.any():
                yield _prescan(scan, key, group, calibration)
        if group.n.max() > 1:  # in place: the group ends here
            group.kspace /= np.maximum(group.n, 1).astype(np.float32)[:, None, None]
        meta = _mask_meta(scan, key, mask, known.mask)
        if incomplete:
            meta["incomplete"] = incomplete
        if group.head is None:
            return
        yield Frame(
            key=key,
            head=group.head,
            kspace=group.kspace.transpose(1, 2, 0),
            mask=mask,
            calibration=calibration & mask,
            meta=meta,
        )


def _entry(known: dict[tuple[int, int], _Known], key: Key) -> _Known:
    """Find a slice's mask; later repetitions may share that of the first."""
    return known.get((key.slice, key.repetition)) or known.get((key.slice, 0)) or _Known()


def _candidates(mask: Mask | None) -> list[Ints]:
    if mask is None:
        return []
    enforced = [mask.counters] if mask.enforced else []
    return enforced + ([] if mask.fallback is None else [mask.fallback])


def _complete(scan: Scan, group: _Group, mask: Mask | None, limits: Ints) -> bool:
    candidates = _candidates(mask)
    if not candidates and group.ended:
        return True
    candidates = candidates or [limits]
    if len(group.averages) < min(rows.size for rows in candidates) * scan.geometry.n_averages:
        return False  # most lines end here, before anything is looked up
    there = group.n >= scan.geometry.n_averages
    return any(bool(there[scan.geometry.row(rows)].all()) for rows in candidates)


def _central_block(rows: Bool, centre: int, n: int) -> Bool:
    """Mark the rows around the centre that are there without a gap, at most n of them."""
    block = np.zeros_like(rows)
    if not rows[centre]:
        return block
    low = centre - int(np.argmin(np.append(rows[centre::-1], False))) + 1
    high = centre + int(np.argmin(np.append(rows[centre:], False)))
    low, high = max(low, centre - n // 2), min(high, centre - n // 2 + n)
    block[low:high] = True
    return block


def _prescan(scan: Scan, key: Key, group: _Group, block: Bool) -> PreScan:
    rows = np.flatnonzero(block)
    lines = [
        group.kspace[row] / group.n[row] if group.n[row] else group.reference[int(row)]
        for row in rows
    ]
    stacked = np.stack(lines, axis=-1).astype(np.complex64)
    return PreScan(key=key, lines=stacked, counters=scan.geometry.counter(rows))


def _mask_meta(scan: Scan, key: Key, mask: Bool, planned: Mask | None) -> dict[str, str]:
    """Say which mask a frame was acquired with.

    `fallback` follows from the lines received, and where these are of both masks, because the two
    are equal, from what the sequence said that it applied. Without a predicted mask, or one that
    could be sent, it is true as well.
    """
    n_acquirable = scan.geometry.limit_counters.size
    meta = {
        "n_lines": str(int(mask.sum())),
        "acceleration": f"{n_acquirable / max(int(mask.sum()), 1):.4g}",
        "acceleration_encoded": f"{scan.geometry.n_ky / max(int(mask.sum()), 1):.4g}",
    }
    if planned is None:
        return meta
    meta["model"], meta["reason"] = planned.model, planned.reason
    as_sent = planned.enforced and bool(mask[scan.geometry.row(planned.counters)].all())
    fallback = planned.reason != "predicted" or (planned.fallback is not None and not as_sent)
    if planned.fallback is not None:
        scope = Scope(slice=key.slice, repetition=planned.key.repetition)
        applied = None if scan.masks is None else scan.masks.applied(scope)
        if applied is not None:
            if np.array_equal(planned.fallback, planned.counters):
                fallback = applied.fallback
            meta["reason"] = applied.reason or planned.reason
        elif planned.enforced and not as_sent:
            meta["reason"] = "the sequence did not take the mask"
    meta["fallback"] = str(fallback).lower()
    return meta
