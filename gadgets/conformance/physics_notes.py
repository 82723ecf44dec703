"""What the physics asks of a sequence, as far as lines on a wire show it: notes, and no verdicts.

A sequence that goes against them keeps the contract and has worse images. Section 13 of
docs/mask-channel.md says why. Whether pulses go on while a mask is waited for is not seen here.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from .sequence_trace import ScanTrace, ScopeTrace

_PAUSE = 3.0  # times the usual time between the lines of a slice: it waited


def notes(scans: Sequence[ScanTrace]) -> list[str]:
    """Return a sentence for everything that could be better, each once."""
    return list(dict.fromkeys(note for scan in scans for note in _of(scan)))


def _of(scan: ScanTrace) -> Iterator[str]:
    hello, traces = scan.hello, list(scan.scopes.values())
    if hello is None:
        return
    n, group = len(hello.calibration), hello.group_size
    if n % group:
        yield (
            f"the calibration has {n} lines, no multiple of the train of {group}: "
            f"{group - n % group} echoes of every slice measure nothing"
        )
    if len(traces) > 1 and not _interleaved(traces):
        paused = [t for t in traces if _waits(t, n)]
        if paused:
            yield (
                f"{len(paused)} of {len(traces)} slices wait for their mask: with slices that take "
                "turns nothing waits; otherwise go on pulsing, or the steady state is lost"
            )


def _interleaved(traces: Sequence[ScopeTrace]) -> bool:
    """Say whether a slice began before another had ended."""
    times = sorted((t.lines[0].at, t.lines[-1].at) for t in traces if t.lines)
    return any(later[0] < earlier[1] for earlier, later in pairwise(times))


def _waits(trace: ScopeTrace, n_calibration: int) -> bool:
    """Say whether the time before the first adaptive line is far longer than that between lines."""
    times = [line.at for line in trace.lines]
    if len(times) <= n_calibration or n_calibration < 2:
        return False
    usual = (times[n_calibration - 1] - times[0]) / (n_calibration - 1)
    return usual > 0 and times[n_calibration] - times[n_calibration - 1] > _PAUSE * usual
