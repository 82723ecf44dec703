"""Notes on what the physics asks, from lines as they came."""

from gadgets.conformance.physics_notes import notes
from gadgets.conformance.sequence_trace import Line, ScanTrace, ScopeTrace
from gadgets.mask.messages import Hello, Scope

CALIBRATION = tuple(range(28, 36))


def scan(starts: list[float], wait: float, group: int = 4, calibration=CALIBRATION) -> ScanTrace:
    """Slices that begin at their starts: 8 calibration lines, a wait, 8 others, 10 ms apart."""
    rest = tuple(range(40, 48))
    lines = tuple(sorted((*calibration, *rest)))
    hello = Hello(
        scan_token="t",
        ky_min=0,
        ky_max=63,
        center=32,
        acquirable=tuple(range(64)),
        calibration=calibration,
        n_lines=len(lines),
        group_size=group,
        fallback=lines,
        deadline_ms=100.0,
    )
    scopes = {}
    for number, start in enumerate(starts):
        at = [start + 0.01 * i + wait * (i >= len(calibration)) for i in range(len(lines))]
        found = [
            Line(counter=counter, flags=0, group=(0,), at=t)
            for counter, t in zip((*calibration, *rest), at, strict=True)
        ]
        scope = Scope(slice=number)
        scopes[scope] = ScopeTrace(scope=scope, trial="ordinary", lines=found)
    return ScanTrace(hello=hello, scopes=scopes)


def test_a_calibration_that_fills_no_trains_is_noted() -> None:
    assert notes([scan([0.0], 0.0)]) == []
    (note,) = notes([scan([0.0], 0.0, calibration=CALIBRATION[:-1])])
    assert "7 lines, no multiple of the train of 4: 1 echoes" in note


def test_slices_that_wait_for_their_mask_one_after_the_other_are_noted() -> None:
    (note,) = notes([scan([0.0, 1.0], 0.5)])
    assert "2 of 2 slices wait" in note


def test_slices_that_take_turns_or_go_on_are_not() -> None:
    assert notes([scan([0.0, 0.005], 0.5)]) == []
    assert notes([scan([0.0, 1.0], 0.02)]) == []


def test_a_scan_without_hello_has_no_notes_and_two_alike_are_told_once() -> None:
    assert notes([ScanTrace()]) == []
    assert len(notes([scan([0.0, 1.0], 0.5)] * 2)) == 1
