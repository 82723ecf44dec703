"""Lines to frames: placement, averages, and when a frame is complete."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mnet.masks.line_plan import Bool

from ..mask.messages import Scope
from ..mrd.complete import lost_rows
from ..mrd.header_layouts import Flag, ImageKey, flags_of, image_key, is_imaging
from ..mrd.items import Acquisition, Burst, Complex, Frame, Ints, Item, Mask, PreScan
from ..mrd.kspace_buffer import KspaceBuffer
from ..mrd.reference_space import in_imaging_space
from ..pipeline.gadget import Gadget
from ..pipeline.scan import Scan
from .readout import to_hybrid

log = logging.getLogger(__name__)
OUTSIDE = "lines outside the encoding limits"
INCOMPLETE = "incomplete frames"
AFTER = "lines after their frame was complete"
LOST = "lines that images seem to lack"


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
    `allow_incomplete`. Where a frame ended with its flag and lines between or beside the others
    seem to be lost, the image's meta says how many, `mnet_lines_lost`.

    Reference lines (flagged as calibration, not as imaging) are of no image. Where a slice has more
    of them around the centre than its PreScan has lines, they take their place for the coil maps,
    in later repetitions too: a mask may then be decided from very few lines. An image's meta tells
    how many there were, and the acceleration with them. Reference lines in an encoding space of
    their own serve likewise where their field of view is the image's; other lines of other spaces
    are counted.
    """

    takes_bursts = True

    allow_incomplete: bool = False  # images, in series 10, of frames that never became complete
    n_calibration: int = 24  # central lines for maps where no PreScan chose them

    def __post_init__(self) -> None:
        """Refuse fewer lines than maps need."""
        if self.n_calibration < 4:
            raise ValueError(f"n_calibration is {self.n_calibration}, expected 4 or more")

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Consume imaging lines and yield frames; everything else passes."""
        frames = _Frames(self, scan)
        for item in items:
            if isinstance(item, Mask):
                frames.learn(item)
                yield item
            elif isinstance(item, PreScan):
                frames.learn(item)
                yield frames.widened(item)
            elif isinstance(item, Burst):
                yield from frames.burst(item)
            elif isinstance(item, Acquisition):
                yield from frames.line(item)
            else:
                yield item
        yield from frames.incomplete()


class _Frames:
    """The images of one scan that are on their way."""

    def __init__(self, settings: AccumulateFrame, scan: Scan) -> None:
        self._settings, self._scan = settings, scan
        self._groups: dict[ImageKey, KspaceBuffer] = {}
        self._known: dict[tuple[int, int], _Known] = {}
        self._done: set[ImageKey] = set()
        self._reference: dict[int, dict[int, Complex]] = {}  # slice: row: (coils, x)
        self._apart: dict[int, dict[int, Complex]] = {}  # the same, of encoding spaces of their own
        self._limits = scan.geometry.limit_counters
        self._most: dict[int, int] = {}  # rows of an image that a flag ended, by contrast

    def learn(self, item: Mask | PreScan) -> None:
        """Note what is known of a slice's mask."""
        known = self._known.setdefault((item.key.slice, item.key.repetition), _Known())
        if isinstance(item, Mask):
            known.mask = item
        else:
            known.calibration = item.counters

    def widened(self, item: PreScan) -> PreScan:
        """Return a PreScan with the slice's reference lines in its place, if these are more."""
        found = (known.get(item.key.slice, {}) for known in (self._reference, self._apart))
        known = max(found, key=lambda lines: int(self._block(lines).sum()))
        rows = np.flatnonzero(self._block(known))
        if rows.size <= item.counters.size:
            return item
        lines = np.stack([known[int(row)] for row in rows], axis=-1)
        return replace(item, lines=lines, counters=self._scan.geometry.counter(rows))

    def _block(self, known: dict[int, Complex]) -> Bool:
        """Mark the rows around the centre of which reference lines are there, without a gap."""
        geometry = self._scan.geometry
        there = np.zeros(geometry.n_ky, dtype=bool)
        there[list(known)] = True
        return _central_block(there, geometry.row(geometry.center), self._settings.n_calibration)

    def line(self, line: Acquisition) -> Iterator[Item]:
        """Place a line; yield the frame that it completes."""
        key, counts = image_key(line.header), self._scan.counts
        if key in self._done:
            counts[AFTER] += 1
        elif key.encoding != 0:
            if not self._keep_apart(line):
                counts["lines of other encoding spaces"] += 1
        elif self._add(key, line):
            yield from self._if_complete(key)

    def burst(self, burst: Burst) -> Iterator[Item]:
        """Place lines at once where that is the same as one by one."""
        key = image_key(burst.header)
        if self._ordinary(key, burst) and self._group(key, burst).add_all(
            to_hybrid(burst, self._scan.geometry), self._scan.geometry
        ):
            yield from self._if_complete(key)
        else:
            for line in burst.lines():
                yield from self.line(line)

    def incomplete(self) -> Iterator[Item]:
        """Count the frames that the stream's end found incomplete, and yield them if asked to."""
        for key, group in self._groups.items():
            if group.header is None:  # reference lines alone are no image
                continue
            known = self._entry(key)
            candidates = _candidates(known.mask) or [self._limits]
            there = group.n > 0
            share = f"{int(there.sum())}/{min(rows.size for rows in candidates)}"
            self._scan.counts[INCOMPLETE] += 1
            log.warning("slice %d is incomplete: %s lines", key.slice, share)
            if self._settings.allow_incomplete:
                yield from self._finish(key, group, share)

    def _entry(self, key: ImageKey) -> _Known:
        """Find a slice's mask; later repetitions may share that of the first."""
        known = self._known
        return known.get((key.slice, key.repetition)) or known.get((key.slice, 0)) or _Known()

    def _group(self, key: ImageKey, lines: Acquisition | Burst) -> KspaceBuffer:
        if key not in self._groups:
            geometry = self._scan.geometry
            self._groups[key] = KspaceBuffer.empty(geometry, lines.data.shape[-2], geometry.n_x)
        return self._groups[key]

    def _ordinary(self, key: ImageKey, burst: Burst) -> bool:
        """Say that its lines are all of an image that is not complete before the last of them."""
        geometry, counters = self._scan.geometry, burst.counters
        first, last = int(counters.min()), int(counters.max())
        if (
            key in self._done
            or key.encoding != 0
            or flags_of(burst.header) & (Flag.NOT_IMAGING | Flag.LAST_IN_SLICE)
            or not geometry.ky_min <= first <= last <= geometry.ky_max
            or not 0 <= geometry.row(first) <= geometry.row(last) < geometry.n_ky
        ):
            return False
        there = len(self._groups[key].averages) if key in self._groups else 0
        candidates = _candidates(self._entry(key).mask) or [self._limits]
        return there + counters.size <= min(c.size for c in candidates) * geometry.n_averages

    def _add(self, key: ImageKey, line: Acquisition) -> bool:
        """Place a line; say whether it changed an image."""
        geometry, flags, counts = self._scan.geometry, flags_of(line.header), self._scan.counts
        counter = int(line.header["kspace_encode_step_1"])
        row = geometry.row(counter)
        reference = not is_imaging(flags)
        if reference and not is_imaging(flags & ~Flag.CALIBRATION):
            counts["lines that are not imaging"] += 1
            return False
        if not geometry.ky_min <= counter <= geometry.ky_max or not 0 <= row < geometry.n_ky:
            counts[OUTSIDE] += 1
            return False
        line = to_hybrid(line, geometry)
        group = self._group(key, line)
        if reference:
            group.reference[row] = line.data
            self._reference.setdefault(key.slice, {})[row] = line.data
            return False
        if not group.add(line, geometry):
            counts["doubled lines"] += 1
            return False
        return True

    def _keep_apart(self, line: Acquisition) -> bool:
        """Keep a reference line of an encoding space of its own; say whether it can be used."""
        flags = flags_of(line.header)
        if is_imaging(flags) or not is_imaging(flags & ~Flag.CALIBRATION):
            return False
        moved = in_imaging_space(line, self._scan.geometry)
        if moved is None:
            return False
        row = self._scan.geometry.row(int(moved.header["kspace_encode_step_1"]))
        if not 0 <= row < self._scan.geometry.n_ky:
            return False
        self._apart.setdefault(int(moved.header["slice"]), {})[row] = moved.data
        return True

    def _if_complete(self, key: ImageKey) -> Iterator[Item]:
        if _complete(self._scan, self._groups[key], self._entry(key).mask, self._limits):
            self._done.add(key)
            yield from self._finish(key, self._groups.pop(key), "")

    def _finish(self, key: ImageKey, group: KspaceBuffer, incomplete: str) -> Iterator[Item]:
        geometry, known = self._scan.geometry, self._entry(key)
        mask = group.n > 0
        calibration = np.zeros_like(mask)
        if known.calibration is not None:
            calibration[geometry.row(known.calibration)] = True
        else:
            merged = mask.copy()
            merged[list(group.reference)] = True
            centre = geometry.row(geometry.center)
            calibration = _central_block(merged, centre, self._settings.n_calibration)
            apart = self._apart.get(key.slice, {})
            block = self._block(apart)
            if block.sum() > calibration.sum():
                yield _prescan_of(self._scan, key, apart, block)
            elif group.reference and calibration.any():
                yield _prescan(self._scan, key, group, calibration)
        meta = _mask_meta(self._scan, key, mask, known.mask)
        meta |= _reference_meta(self._scan, mask, group)
        if incomplete:
            meta["incomplete"] = incomplete
        elif not _candidates(known.mask):
            meta |= self._lost(key, mask)
        if group.header is None:
            return
        yield Frame(
            key=key,
            header=group.header,
            kspace=group.mean().transpose(1, 2, 0),
            mask=mask,
            calibration=calibration & mask,
            meta=meta,
        )

    def _lost(self, key: ImageKey, mask: Bool) -> dict[str, str]:
        """Say what an image that a flag ended seems to lack, also beside earlier ones."""
        n = int(mask.sum())
        most = self._most[key.contrast] = max(n, self._most.get(key.contrast, 0))
        lost = max(lost_rows(mask, self._scan.geometry.row(self._limits)), most - n)
        if not lost:
            return {}
        if not self._scan.counts[LOST]:
            log.warning(
                "slice %d seems to lack %d lines, yet its last one is there", key.slice, lost
            )
        self._scan.counts[LOST] += lost
        return {"lines_lost": str(lost)}


def _candidates(mask: Mask | None) -> list[Ints]:
    if mask is None:
        return []
    enforced = [mask.counters] if mask.enforced else []
    return enforced + ([] if mask.fallback is None else [mask.fallback])


def _complete(scan: Scan, group: KspaceBuffer, mask: Mask | None, limits: Ints) -> bool:
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


def _prescan(scan: Scan, key: ImageKey, group: KspaceBuffer, block: Bool) -> PreScan:
    rows = np.flatnonzero(block)
    lines = [
        group.kspace[row] / group.n[row] if group.n[row] else group.reference[int(row)]
        for row in rows
    ]
    stacked = np.stack(lines, axis=-1).astype(np.complex64)
    return PreScan(key=key, lines=stacked, counters=scan.geometry.counter(rows))


def _prescan_of(scan: Scan, key: ImageKey, known: dict[int, Complex], block: Bool) -> PreScan:
    rows = np.flatnonzero(block)
    lines = np.stack([known[int(row)] for row in rows], axis=-1)
    return PreScan(key=key, lines=lines, counters=scan.geometry.counter(rows))


def _reference_meta(scan: Scan, mask: Bool, group: KspaceBuffer) -> dict[str, str]:
    """Count the reference lines that an image was measured with, which its budget leaves out."""
    if not group.reference:
        return {}
    n = len(group.reference)
    return {
        "n_reference": str(n),
        "acceleration_with_reference": (
            f"{scan.geometry.limit_counters.size / (int(mask.sum()) + n):.4g}"
        ),
    }


def _mask_meta(scan: Scan, key: ImageKey, mask: Bool, planned: Mask | None) -> dict[str, str]:
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
    if planned.choice:
        meta["choice"] = planned.choice
    if planned.guard:
        meta["guard"] = planned.guard
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
