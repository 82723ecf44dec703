"""The rules that a sequence must keep, judged on what the test bench saw of it."""

from collections.abc import Callable, Iterator, Sequence

from ..mask.agreement import disagreement
from ..mask.messages import Hello, MaskMessage, NackReason
from ..mrd.header_layouts import Flag
from .sequence_trace import Line, ScanTrace, ScopeTrace, Trial
from .verdicts import Rule, Verdict, verdict

Faults = Iterator[str]
Scans = Sequence[ScanTrace]
ENDS = Flag.FIRST_IN_SLICE | Flag.LAST_IN_SLICE


def _rule(name: str, section: str, sentence: str) -> Rule:
    return Rule(name=name, section=section, sentence=sentence)


HELLO = _rule("hello", "4", "A valid hello comes before the first line and fits the MRD header.")
TOKEN = _rule("token", "3", "Hello and MRD header carry one scan token, new for every start.")
CALIBRATION_FIRST = _rule("calibration-first", "5", "Every calibration line precedes all others.")
APPLIED = _rule("applied", "5", "One `applied` per scope comes before its first adaptive line.")
LINES = _rule("lines-as-applied", "5", "The lines acquired are those in `applied`, each once.")
UNASKED = _rule("no-unasked-line", "5", "No line but the mask's or the fallback's is acquired.")
BUDGET = _rule("budget", "6", "Each image has n_lines lines; a mask of another size gets a nack.")
WINDOW = _rule("window", "6", "No line outside the hello's window; such a mask gets a nack.")
GROUP = _rule("group-size", "6", "Adaptive lines come in whole groups; other masks get a nack.")
CALIBRATION = _rule("calibration-kept", "6", "A mask without a calibration line gets a nack.")
FLAGS = _rule(
    "flags", "10", "USER_1 on calibration lines only, FIRST and LAST_IN_SLICE on the ends."
)
DEADLINE = _rule("fallback-at-deadline", "5", "Without a mask, the fallback at the deadline.")
LATE = _rule("late-mask", "7", "A mask after `applied` gets nack(late) and changes nothing.")
DUPLICATE = _rule("duplicate", "7", "The same mask twice is acked twice and counts once.")
OLDER = _rule("older-sequence-number", "7", "An older sequence number gets a nack and no lines.")
FOREIGN = _rule("foreign-mask", "3", "A mask with another scan's token gets nack(foreign).")
OVERSIZED = _rule("oversized", "2", "A header over 16 KiB gets error(oversized), the scan goes on.")
MALFORMED = _rule("malformed", "2", "A broken message gets error(malformed), the scan goes on.")
RESTART = _rule("restart", "8", "When the binder restarts in mid-scan, the fallback serves.")
WRONG_KEY = _rule("wrong-key", "9", "A host with another key hears nothing; the fallback serves.")


_OFF = 1.5  # deadlines by which a look may come late at most
_TICK_S = 0.005  # that a scheduler may take of any deadline


def judge(scans: Scans, *, keys: bool, grace_s: float) -> list[Verdict]:
    """Return a verdict on every rule. `grace_s` allows for transport and a busy machine."""
    talking = [scan for scan in scans if not scan.impostor]
    real = [scan for scan in talking if scan.hello is not None]
    any_scope = any(scan.scopes for scan in real)

    def ran(*trials: Trial) -> bool:
        return any(t.trial in trials and t.calibrated_at is not None for _, t in _scopes(real))

    def refused(rule: Rule, trial: Trial, extra: Faults, skip: str = "") -> Verdict:
        faults = [*extra, *_not_refused(real, trial, ("invalid",))]
        return verdict(rule, faults, seen=ran(trial), skip=skip)

    groups = any(scan.hello is not None and scan.hello.group_size > 1 for scan in real)
    no_groups = "" if groups or not real else "the hello's group size is 1"
    return [
        verdict(HELLO, _hello(talking), seen=bool(talking)),
        verdict(TOKEN, _token(real), seen=bool(real)),
        verdict(CALIBRATION_FIRST, _calibration_first(real), seen=any_scope),
        verdict(APPLIED, _applied(real, grace_s), seen=any_scope),
        verdict(LINES, _lines_as_applied(real), seen=any_scope),
        verdict(UNASKED, _unasked(real), seen=any_scope),
        refused(BUDGET, "budget", _budget(real)),
        refused(WINDOW, "window", _window(real)),
        refused(GROUP, "group-size", _group(real), no_groups),
        refused(CALIBRATION, "calibration", _calibration_kept(real)),
        verdict(FLAGS, _flags(real), seen=any_scope),
        verdict(DEADLINE, _deadline(real, grace_s), seen=ran("silence")),
        verdict(LATE, _not_refused(real, "late", ("late",)), seen=ran("late")),
        verdict(DUPLICATE, _duplicate(real), seen=ran("duplicate")),
        verdict(OLDER, _older(real), seen=ran("older")),
        verdict(FOREIGN, _not_refused(real, "foreign", ("foreign",)), seen=ran("foreign")),
        verdict(OVERSIZED, _garbage(real, "oversized"), seen=ran("oversized")),
        verdict(MALFORMED, _garbage(real, "malformed"), seen=ran("malformed")),
        verdict(RESTART, _restart(real), seen=ran("restart")),
        verdict(
            WRONG_KEY,
            _wrong_key(scans, real),
            seen=any(scan.impostor and scan.closed for scan in scans),
            skip="" if keys else "the channel was tried without keys",
        ),
    ]


def _scopes(scans: Scans) -> Iterator[tuple[Hello, ScopeTrace]]:
    for scan in scans:
        if scan.hello is not None:
            for trace in scan.scopes.values():
                yield scan.hello, trace


def _at(trace: ScopeTrace) -> str:
    return f"slice {trace.scope.slice} ({trace.trial})"


def _counters(lines: Sequence[Line]) -> list[int]:
    return sorted(line.counter for line in lines)


def _hello(scans: Scans) -> Faults:
    for scan in scans:
        yield from scan.faults
        hello, geometry = scan.hello, scan.geometry
        if hello is None:
            yield "no valid hello came"
            continue
        if scan.first_line_at is not None and (scan.hello_at or 0) > scan.first_line_at:
            yield "the hello came after the first line"
        if geometry is None:
            continue
        wrong = disagreement(hello, geometry)
        if wrong:
            yield wrong


def _token(scans: Scans) -> Faults:
    known: set[str] = set()
    for scan in scans:
        token = "" if scan.hello is None else scan.hello.scan_token
        if scan.geometry is not None and scan.token() != token:
            yield f"hello has token {token}, the MRD header {scan.token()}"
        if token in known:
            yield f"token {token} served more than one scan"
        known.add(token)


def _calibration_first(scans: Scans) -> Faults:
    for hello, trace in _scopes(scans):
        calibration = set(hello.calibration)
        for lines in trace.by_group().values():
            head = [line.counter for line in lines[: len(calibration)]]
            if set(head) != calibration:
                early = [c for c in head if c not in calibration]
                missing = sorted(calibration - set(_counters(lines)))
                what = f"line {early[0]} came" if early else f"lines {missing[:5]} are missing"
                yield f"{_at(trace)}: {what} before the calibration was complete"


def _applied(scans: Scans, grace_s: float) -> Faults:
    for hello, trace in _scopes(scans):
        if trace.trial == "restart":
            continue  # it may have been said to the binder that is gone
        if len(trace.applied) != 1:
            yield f"{_at(trace)}: expected one `applied`, got {len(trace.applied)}"
            continue
        adaptive = [line.at for line in trace.lines if line.counter not in hello.calibration]
        delay = trace.applied[0][1] - adaptive[0] if adaptive else 0.0
        if delay > grace_s:
            yield f"{_at(trace)}: `applied` came {1e3 * delay:.0f} ms after the first adaptive line"


def _lines_as_applied(scans: Scans) -> Faults:
    for hello, trace in _scopes(scans):
        said = trace.applied[0][0].counters if trace.applied else hello.fallback
        for lines in trace.by_group().values():
            got = _counters(lines)
            if got != list(said):
                missing, extra = sorted(set(said) - set(got)), sorted(set(got) - set(said))
                twice = sorted({c for c in got if got.count(c) > 1})
                yield (
                    f"{_at(trace)}: missing {missing[:5]}, not announced {extra[:5]}, "
                    f"twice {twice[:5]}"
                )


def _unasked(scans: Scans) -> Faults:
    for hello, trace in _scopes(scans):
        allowed = [set(mask.counters) for mask in trace.offered] + [set(hello.fallback)]
        for lines in trace.by_group().values():
            got = set(_counters(lines))
            if not any(got <= each for each in allowed):
                nearest = min((sorted(got - each) for each in allowed), key=len)
                yield f"{_at(trace)}: nobody asked for lines {nearest[:5]}"
        for applied, _ in trace.applied:
            if applied.fallback and applied.counters != hello.fallback:
                yield f"{_at(trace)}: `applied` says fallback, but these are other lines"


def _budget(scans: Scans) -> Faults:
    for hello, trace in _scopes(scans):
        for lines in trace.by_group().values():
            if len(lines) != hello.n_lines:
                yield f"{_at(trace)}: expected {hello.n_lines} lines, got {len(lines)}"


def _window(scans: Scans) -> Faults:
    for hello, trace in _scopes(scans):
        outside = sorted({line.counter for line in trace.lines} - set(hello.acquirable))
        if outside:
            yield f"{_at(trace)}: lines {outside[:5]} are not acquirable"


def _group(scans: Scans) -> Faults:
    for hello, trace in _scopes(scans):
        for lines in trace.by_group().values():
            adaptive = sum(line.counter not in hello.calibration for line in lines)
            if adaptive % hello.group_size:
                yield f"{_at(trace)}: {adaptive} adaptive lines in groups of {hello.group_size}"


def _calibration_kept(scans: Scans) -> Faults:
    for hello, trace in _scopes(scans):
        for applied, _ in trace.applied:
            missing = sorted(set(hello.calibration) - set(applied.counters))
            if missing:
                yield f"{_at(trace)}: `applied` misses calibration lines {missing[:5]}"


def _flags(scans: Scans) -> Faults:
    for hello, trace in _scopes(scans):
        for lines in trace.by_group().values():
            for i, line in enumerate(lines):
                wanted = Flag.FIRST_IN_SLICE * (i == 0) | Flag.LAST_IN_SLICE * (i == len(lines) - 1)
                if line.flags & ENDS != wanted:
                    yield f"{_at(trace)}: line {line.counter} has wrong FIRST or LAST_IN_SLICE"
                marked = bool(line.flags & Flag.MASK_CALIBRATION)
                if marked != (line.counter in hello.calibration):
                    state = "set" if marked else "unset"
                    yield f"{_at(trace)}: line {line.counter} has USER_1 {state}"


def _deadline(scans: Scans, grace_s: float) -> Faults:
    for hello, trace in _scopes(scans):
        if trace.trial != "silence" or trace.calibrated_at is None or not trace.applied:
            continue
        applied, at = trace.applied[0]
        if not applied.fallback or applied.counters != hello.fallback:
            yield f"{_at(trace)}: no mask was sent, but `applied` is not the fallback"
        waited, deadline = at - trace.calibrated_at, hello.deadline_ms / 1000
        # three times a short deadline is no transport, whatever the grace
        if abs(waited - deadline) > min(grace_s, max(_OFF * deadline, _TICK_S)):
            yield (
                f"{_at(trace)}: `applied` came {1e3 * waited:.0f} ms after the last calibration "
                f"line, the deadline is {hello.deadline_ms:g} ms"
            )


def _not_refused(scans: Scans, trial: Trial, reasons: tuple[NackReason, ...]) -> Faults:
    """Say what is wrong where every mask in `refusable` should have been refused."""
    for _, trace in _scopes(scans):
        if trace.trial != trial:
            continue
        for mask in trace.refusable:
            yield from _refusal(trace, mask, reasons)
        if not trace.offered:
            for applied, _ in trace.applied:
                if not applied.fallback:
                    yield f"{_at(trace)}: no valid mask was sent, but `applied` is no fallback"


def _refusal(trace: ScopeTrace, mask: MaskMessage, reasons: tuple[NackReason, ...]) -> Faults:
    nack = trace.nack(mask)
    if trace.acks(mask):
        yield f"{_at(trace)}: it was acked"
    elif nack is None:
        yield f"{_at(trace)}: it was not answered"
    elif nack.reason not in reasons:
        yield f"{_at(trace)}: expected nack({' or '.join(reasons)}), got nack({nack.reason})"
    if any(applied.message_id == mask.message_id for applied, _ in trace.applied):
        yield f"{_at(trace)}: it was applied"


def _used(trace: ScopeTrace) -> Faults:
    """Say what is wrong where the first mask in `offered` should have been used."""
    mask = trace.offered[0] if trace.offered else None
    if mask is None or not trace.applied:
        return
    applied = trace.applied[0][0]
    if not trace.acks(mask):
        yield f"{_at(trace)}: the valid mask was not acked"
    if applied.fallback or applied.counters != mask.counters:
        yield f"{_at(trace)}: the valid mask came in time, but is not in `applied`"


def _duplicate(scans: Scans) -> Faults:
    for _, trace in _scopes(scans):
        if trace.trial == "ordinary":
            yield from _used(trace)
        if trace.trial != "duplicate":
            continue
        yield from _used(trace)
        acks = trace.acks(trace.offered[0]) if trace.offered else 2
        if acks < 2:
            yield f"{_at(trace)}: sent twice, acked {acks} times"


def _older(scans: Scans) -> Faults:
    for _, trace in _scopes(scans):
        if trace.trial == "older":
            yield from _used(trace)
    # A sequence that takes the first mask at once finds the older one late: equally refused.
    yield from _not_refused(scans, "older", ("stale", "late"))


def _garbage(scans: Scans, trial: Trial) -> Faults:
    reason: Callable[[str], bool] = trial.__eq__
    for _, trace in _scopes(scans):
        if trace.trial != trial:
            continue
        n_answers = sum(map(reason, trace.errors))
        if n_answers < trace.n_garbage:
            yield f"{_at(trace)}: {trace.n_garbage} sent, {n_answers} answered error({trial})"
        yield from _used(trace)


def _restart(scans: Scans) -> Faults:
    for scan in scans:
        traces = [t for t in scan.scopes.values() if t.trial == "restart"]
        if traces and not scan.closed:
            yield "the scan did not go through after the binder's restart"
        for trace in traces:
            fallback = () if scan.hello is None else scan.hello.fallback
            for lines in trace.by_group().values():
                if _counters(lines) != list(fallback):
                    yield f"{_at(trace)}: the lines are not the fallback's"


def _wrong_key(scans: Scans, real: Scans) -> Faults:
    fallbacks = {scan.hello.fallback for scan in real if scan.hello is not None}
    for scan in (scan for scan in scans if scan.impostor):
        if scan.hello is not None or scan.strays:
            yield "the sequence talked to a host whose key it should not know"
        if not scan.closed:
            yield "the scan did not go through without its mask channel"
        for trace in scan.scopes.values():
            for lines in trace.by_group().values():
                if fallbacks and tuple(_counters(lines)) not in fallbacks:
                    yield f"slice {trace.scope.slice}: the lines are not the fallback's"
