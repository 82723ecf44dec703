"""The calibration gadget: average the calibration lines over coils, run MNet, send the mask."""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnet.masks.densities import low_pass
from mnet.masks.line_plan import Bool, LinePlan
from mnet.sampler.choosing import Choosing
from mnet.sampler.features import N_COIL_POINTS, coil_features, coil_points, seen_of
from mnet.sampler.guard import Guard
from mnet.sampler.mnet import mask_of
from mnet.weight_files import guard_of

from ..errors import GadgetError
from ..mask.agreement import disagreement
from ..mask.messages import Hello, Scope
from ..mask.recon_end import Unpaired
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import ImageKey, flags_of, image_key, is_imaging
from ..mrd.items import Acquisition, Burst, Complex, Ints, Item, Mask, PreScan
from ..pipeline.gadget import Gadget
from ..pipeline.models import WeightsName
from ..pipeline.scan import Scan
from .readout import to_hybrid

log = logging.getLogger(__name__)
Floats = NDArray[np.floating[Any]]


@dataclass(slots=True)
class _Scope:
    """One slice (of one repetition) on its way to a mask."""

    lines: dict[int, Complex] = field(default_factory=dict)  # calibration, by counter
    features: dict[int, Floats] = field(default_factory=dict)
    coils: dict[int, Complex] = field(default_factory=dict)  # what is needed of the coils' lines
    held: list[Acquisition] = field(default_factory=list)  # retrospective: before the decision
    mask: Mask | None = None
    n_passed: int = 0  # lines of its image

    def left(self, n_calibration: int) -> int:
        """Return how many lines its mask, and with one its image, needs at least."""
        if self.mask is None:
            return n_calibration - len(self.lines)
        return self.mask.counters.size - self.n_passed

    def add(self, counter: int, line: Complex) -> None:
        """Take in a calibration line, and what of the decision can be done before the last one."""
        self.lines[counter] = line
        self.features[counter] = seen_of(line)
        self.coils[counter] = line[:, coil_points(line.shape[-1]).numpy()]


@dataclass(slots=True)
class _Plan:
    """What the masks of a scan may choose from, while its sequence says the same."""

    hello: Hello | None
    lines: LinePlan
    calibration: Ints  # counters, ascending
    guard: Guard | None  # of the sampler, where its card has one


class _Found(NamedTuple):
    """What was decided."""

    rows: Bool  # the mask
    reason: str = "predicted"  # or why it is only the best fixed one
    choice: str = ""  # which one it is and why, where a sampler can tell
    guard: str = ""  # why the guard took the fallback, if it did


@dataclass(frozen=True, kw_only=True)
class PredictMask(Gadget):
    """Predict a mask for every slice as soon as its last calibration line is in.

    `prospective` sends it to the sequence over the mask channel. `retrospective` takes fully
    sampled data and drops the lines that the mask excludes. `shadow` only predicts, times and logs.
    Budget and calibration are the sequence's where it says hello, and those of the properties where
    it does not.

    Where the sampler's card has a guard and a slice is unlike what the sampler learned from, the
    mask is the fallback of the slice's stratum, or the best fixed one where a sampler knows no
    strata. It leaves like any mask; its choice and the image's meta `mnet_guard` say why.
    """

    takes_bursts = True

    # who obeys a mask: the sequence, this gadget by dropping lines, or nobody
    mode: Literal["prospective", "retrospective", "shadow"] = "prospective"
    sampler: WeightsName = "mnet_select"  # name of deployed weights
    acceleration: float = 4.0  # lines over lines measured, where no sequence says hello; at least 1
    basis: Literal["acquirable", "encoded"] = "acquirable"  # lines that the acceleration divides
    # calibration lines at most, where no sequence says hello; 0: about a third of all. Six to eight
    # suffice at 6x and more where reference lines are measured, which coil maps are then made from
    n_calibration: int = 0
    # how a mask leaves; MRD message 1028 only to a client that says its hello in the MRD stream
    feedback: Literal["mask_channel", "mrd1028"] = "mask_channel"

    def __post_init__(self) -> None:
        """Refuse accelerations below 1."""
        if self.acceleration < 1:
            raise ValueError(f"acceleration is {self.acceleration}, expected 1 or more")
        if self.n_calibration < 0 or 0 < self.n_calibration < 4:
            raise ValueError(f"n_calibration is {self.n_calibration}, expected 0, or 4 or more")

    @property
    def in_band(self) -> bool:
        """Whether masks shall leave as MRD messages."""
        return self.feedback == "mrd1028"

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Pass all lines on, and yield a PreScan and a Mask when a slice's calibration is in."""
        scan.models.get(self.sampler)
        return self._stream(scan, items)

    def warm(self, scan: Scan) -> None:
        """Run the sampler in the shape it will meet."""
        guard, plan = self._guard(scan), self.plan(scan.geometry, None)
        for _ in range(3):
            with scan.turn.held():
                self._rehearse(scan, plan, guard)

    def plan(self, geometry: Geometry, hello: Hello | None) -> LinePlan:
        """Return what a mask may choose from, in rows of the encoded matrix."""
        acquirable, center = np.zeros(geometry.n_ky, dtype=bool), geometry.row(geometry.center)
        if hello is None:
            acquirable[geometry.row(geometry.limit_counters)] = True
            n_rows = geometry.n_ky if self.basis == "encoded" else None
            usual = LinePlan.of(acquirable, self.acceleration, center, n_rows=n_rows)
            if not usual.calibration.any():
                raise GadgetError(
                    f"PredictMask: {int(acquirable.sum())} lines can be acquired, and at an "
                    f"acceleration of {self.acceleration:g} none of them is a calibration line: "
                    f"expected at least {math.ceil(2 * self.acceleration)} (the limits of "
                    "kspace_encoding_step_1 in the MRD header), or a smaller acceleration"
                )
            return usual.narrowed(self.n_calibration) if self.n_calibration else usual
        calibration = acquirable.copy()
        acquirable[geometry.row(np.array(hello.acquirable))] = True
        calibration[geometry.row(np.array(hello.calibration))] = True
        return LinePlan(
            acquirable=acquirable, calibration=calibration, n_lines=hello.n_lines, center=center
        )

    def _stream(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        scopes: dict[tuple[int, int], _Scope] = {}
        running: dict[tuple[int, int], _Scope] = {}  # those that lack lines
        plan: _Plan | None = None
        for item in items:
            if not isinstance(item, Acquisition | Burst) or not _belongs(item):
                yield item
                continue
            received = scan.slack.read_at or time.monotonic()  # other scans may have come first
            plan = self._planned(scan, plan)
            key = image_key(item.header)
            if plan.hello is not None and plan.hello.repetition == "first":
                key = key._replace(repetition=0)
            at = key.slice, key.repetition
            if at not in scopes:
                scopes[at] = running[at] = _Scope()
            scope = scopes[at]
            item = to_hybrid(item, scan.geometry)
            scope.n_passed += len(item.headers) if isinstance(item, Burst) else 1
            if scope.mask is not None:
                yield from self._pass(item, scope.mask)
            else:
                for line in item.lines() if isinstance(item, Burst) else (item,):
                    yield from self._before_mask(scan, key, scope, plan, line, received)
            if self.mode != "retrospective":
                _look_ahead(scan, running, plan.calibration.size)
        for scope in scopes.values():
            yield from scope.held  # the stream ended early: acquired data are never lost

    def _planned(self, scan: Scan, plan: _Plan | None) -> _Plan:
        """Return the plan in force, a new one where the sequence has said something new."""
        hello = None if scan.masks is None else scan.masks.hello()
        if plan is not None and (hello is None or hello is plan.hello):
            return plan  # what an earlier hello said stays true
        if hello is not None and disagreement(hello, scan.geometry):
            if plan is not None:
                return plan
            hello = None  # `_send` says what is wrong with it
        lines = self.plan(scan.geometry, hello)
        calibration = scan.geometry.counter(np.flatnonzero(lines.calibration))
        guard = self._guard(scan) if plan is None else plan.guard
        if lines not in scan.rehearsed:
            self._rehearse(scan, lines, guard)  # now, not when the last calibration line is in
        return _Plan(hello=hello, lines=lines, calibration=calibration, guard=guard)

    def _guard(self, scan: Scan) -> Guard | None:
        return guard_of(scan.models.get(self.sampler)[1], f"the card of {self.sampler}")

    def _before_mask(
        self,
        scan: Scan,
        key: ImageKey,
        scope: _Scope,
        plan: _Plan,
        line: Acquisition,
        received: float,
    ) -> Iterator[Item]:
        """Take in a line of a slice that has no mask yet, and decide where it is the last one."""
        counter = int(line.header["kspace_encode_step_1"])
        wanted = plan.calibration
        if scope.mask is None and counter in wanted and counter not in scope.lines:
            scope.add(counter, line.data)
            if len(scope.lines) >= wanted.size and all(int(c) in scope.lines for c in wanted):
                scope.mask = self._decide(scan, key, scope, plan, received)
                lines = np.stack([scope.lines[int(c)] for c in wanted], axis=-1)
                # the sequence waits for the mask, maps have the whole slice
                yield PreScan(key=key, lines=lines, counters=wanted)
                for collected in (scope.lines, scope.features, scope.coils):
                    collected.clear()
                yield scope.mask
        scope.held.append(line)
        if scope.mask is not None or self.mode != "retrospective":
            held, scope.held = scope.held, []
            for one in held:
                yield from self._pass(one, scope.mask)

    def _pass(self, item: Acquisition | Burst, mask: Mask | None) -> Iterator[Item]:
        """Yield the lines that may go on."""
        if self.mode != "retrospective" or mask is None:
            yield item
        elif isinstance(item, Burst):
            kept = np.isin(item.counters, mask.counters)
            if kept.any():
                yield item.only(kept)
        elif int(item.header["kspace_encode_step_1"]) in mask.counters:
            yield item

    def _decide(
        self, scan: Scan, key: ImageKey, scope: _Scope, plan: _Plan, received: float
    ) -> Mask:
        """Predict the mask of one slice, and send it where that is the mode."""
        hello, wanted = plan.hello, plan.calibration.tolist()
        z, coils = (
            torch.from_numpy(np.stack([known[counter] for counter in wanted], axis=-1)[None])
            for known in (scope.features, scope.coils)
        )
        found = self._predict(scan, z, plan.lines, coils, plan.guard)
        counters, reason = scan.geometry.counter(np.flatnonzero(found.rows)), found.reason
        sent = False
        if self.mode == "prospective" and reason == "predicted":
            sent, reason = self._send(scan, key, counters)
        mask = Mask(
            key=key,
            counters=counters,
            reason=reason,
            sent=sent,
            enforced=sent or self.mode == "retrospective",
            fallback=(
                np.array(hello.fallback)
                if hello is not None and self.mode == "prospective"
                else None
            ),
            model=self._hash(scan),
            choice=found.choice,
            guard=found.guard,
            seconds=time.monotonic() - received,
        )
        log.info(
            "slice %d: mask of %d lines in %.1f ms, %s",
            key.slice,
            counters.size,
            1e3 * mask.seconds,
            # what follows a colon may quote the client
            ": ".join(part for part in (reason.partition(":")[0], mask.choice) if part),
        )
        return mask

    def _rehearse(self, scan: Scan, plan: LinePlan, guard: Guard | None) -> None:
        """Predict from nothing, so that what a plan needs once is there when a mask is due."""
        n_coils, n_lines = scan.geometry.n_coils or 1, int(plan.calibration.sum())
        z = torch.ones(1, 3, scan.geometry.n_x, n_lines)
        lines = torch.ones(1, n_coils, N_COIL_POINTS, n_lines, dtype=torch.complex64)
        self._predict(scan, z, plan, lines, None)  # the guard would not let it come to the net
        if guard is not None:
            guard.verdict(z, plan, coil_features(lines))
        scan.rehearsed.add(plan)

    def _predict(
        self, scan: Scan, z: Tensor, plan: LinePlan, lines: Tensor, guard: Guard | None
    ) -> _Found:
        """Decide from features of the calibration lines, and these (1, coils, x, lines)."""
        model: nn.Module = scan.models.get(self.sampler)[0]
        try:
            with torch.inference_mode():
                seen = coil_features(lines)
                words = "" if guard is None else guard.verdict(z, plan, seen)
                there, coils = z.to(scan.models.device), seen.to(scan.models.device)
                if words:
                    rows = _fallback(model, there, plan, coils)
                    return _Found(rows, choice=f"guard: {words}", guard=words)
                if isinstance(model, Choosing):
                    ((rows, choice),) = model.decide(there, plan, coils)
                    return _Found(rows, choice=choice)
                logits = model(there, plan, coils)
            if not torch.isfinite(logits).all():
                raise ValueError("logits are not finite")
            return _Found(mask_of(logits[0], plan))
        except (RuntimeError, ValueError) as error:  # of torch or of the model: the scan goes on
            log.exception("the sampler failed")
            return _Found(_fixed(model, plan), reason=f"sampler failed: {error}")

    def _send(self, scan: Scan, key: ImageKey, counters: Ints) -> tuple[bool, str]:
        """Send the mask to the sequence that this scan is paired with, or say why not."""
        if scan.masks is None:
            return False, "no mask channel"
        try:
            declared = scan.masks.hello()
            detail = "" if declared is None else disagreement(declared, scan.geometry)
            if detail:
                scan.masks.refuse(detail)
                return False, detail
            scan.masks.send(
                Scope(slice=key.slice, repetition=key.repetition),
                [int(c) for c in counters],
                model=self._hash(scan),
                reason="predicted",
            )
        except Unpaired as error:
            return False, error.reason
        except ValueError as error:  # the mask breaks the rules of the hello
            return False, str(error)
        return True, "predicted"

    def _hash(self, scan: Scan) -> str:
        return str(scan.models.get(self.sampler)[1]["sha256"])[:16]


def _look_ahead(scan: Scan, running: dict[tuple[int, int], _Scope], n_calibration: int) -> None:
    """Say what the lines to come may complete, and forget the slices that lack none.

    Half of the lines that anything lacks may gather: the last of them is handled as it comes.
    """
    left = {at: scope.left(n_calibration) for at, scope in running.items()}
    for at in [at for at, n in left.items() if n <= 0]:
        del running[at], left[at]
    undecided = [left[at] for at, scope in running.items() if scope.mask is None]
    scan.slack.to_mask = min([n_calibration, *undecided])  # a slice that is to come lacks them all
    scan.slack.lines = min([n_calibration, *left.values()]) // 2


def _fixed(model: nn.Module, plan: LinePlan) -> Bool:
    """Return the best fixed mask (n,) that a sampler knows."""
    fixed: Bool = getattr(model, "population", low_pass)(plan)
    return fixed


def _fallback(model: nn.Module, z: Tensor, plan: LinePlan, coils: Tensor) -> Bool:
    """Return the safest mask (n,) of a slice's stratum, where a sampler knows strata."""
    if isinstance(model, Choosing):
        return model.fallback(z, plan, coils)[0]
    return _fixed(model, plan)


def _belongs(line: Acquisition | Burst) -> bool:
    flags, encoding = flags_of(line.header), int(line.header["encoding_space_ref"])
    return is_imaging(flags) and encoding == 0
