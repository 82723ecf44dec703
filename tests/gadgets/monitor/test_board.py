"""What the monitor makes of events, of which any may be missing."""

from typing import Any

import pytest

from gadgets.monitor.board import MOST_SCANS, MOST_SLICES, Board

MASK = {
    "kind": "mask",
    "counters": [1, 2, 3, 4],
    "reason": "predicted",
    "sent": True,
    "enforced": True,
    "choice": "expert 3, many channels",
    "guard": "",
    "ms": 4.25,
}
HELLO = {
    "kind": "hello",
    "acquirable": [0, 1, 2, 3, 4, 5],
    "calibration": [2, 3],
    "n_lines": 4,
    "deadline_ms": 20.0,
    "repetition": "first",
}
BEGUN = {
    "kind": "begun",
    "pipeline": "adaptive_modl",
    "ky_min": 0,
    "ky_max": 5,
    "center": 3,
    "slices": 2,
    "repetitions": 1,
}


def lines(*counters: int, **where: int) -> dict[str, Any]:
    return {"kind": "lines", "counters": list(counters), **where}


def board(*events: dict[str, Any]) -> Board:
    made = Board(clock=lambda: 12.0)
    for event in events:
        at = {} if event["kind"] in ("begun", "hello", "ended", "failed") else {"slice": 0}
        made.take({"scan": "a", "repetition": 0, **at, **event})
    return made


def row(*events: dict[str, Any]) -> dict[str, Any]:
    """The row of slice 0, after these events."""
    (scan,) = board(*events).changes(-1)
    found: dict[str, Any] = scan["rows"][0]
    return found


def test_a_scan_is_told_row_by_row_and_only_what_has_changed() -> None:
    made = board(BEGUN, HELLO, lines(2, 3), lines(2, slice=1))
    (scan,) = made.changes(-1)
    assert (scan["state"], scan["n_lines"], scan["now"], scan["slices"]) == ("running", 3, 1, 2)
    assert [each["got"] for each in scan["rows"]] == [[2, 3], [2]]
    seen = made.version
    assert made.changes(seen) == []
    made.take({"scan": "a", "slice": 0, "repetition": 0, **lines(1)})
    (scan,) = made.changes(seen)
    assert [(each["slice"], each["got"]) for each in scan["rows"]] == [(0, [2, 3, 1])]


def test_a_mask_that_was_applied_is_told_with_what_the_sampler_says() -> None:
    decided = row(BEGUN, HELLO, MASK)
    assert (decided["state"], decided["asked"]) == ("mask", [1, 2, 3, 4])
    assert decided["why"] == "Mask sent after 4.2 ms of 20 ms. Expert 3, many channels."
    applied = row(HELLO, MASK, {"kind": "applied", "fallback": False, "counters": [1, 2, 3, 4]})
    assert applied["state"] == "predicted"
    assert applied["why"] == "Mask in 4.2 ms of 20 ms. Expert 3, many channels."


APPLIED = {"kind": "applied", "fallback": True, "counters": [2, 3, 4, 5]}


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([MASK | {"ms": 31.0}, APPLIED], "The mask took 31 ms; the deadline is 20 ms."),
        (
            [MASK, {"kind": "nack", "reason": "late"}, APPLIED],
            "The mask took 4.2 ms of 20 ms, but the sequence got it too late.",
        ),
        (
            [MASK, APPLIED],
            "The mask took 4.2 ms of 20 ms, but the sequence did not have it in time.",
        ),
        (
            [MASK | {"reason": "sampler failed: logits are not finite", "sent": False}],
            "No mask left: sampler failed: logits are not finite.",
        ),
        ([APPLIED], "The sequence measures its fallback mask; no other was there in time."),
    ],
)
def test_a_fallback_is_told_with_its_reason(events: list[dict[str, Any]], why: str) -> None:
    told = row(HELLO, *events)
    assert (told["state"], told["why"]) == ("fallback", why)


def test_a_slice_that_the_guard_refused_says_so() -> None:
    mask = MASK | {"guard": "fold-over", "choice": "guard: fold-over"}
    told = row(HELLO, mask, {"kind": "applied", "fallback": False, "counters": [1]})
    assert told["state"] == "fixed"
    assert told["why"].endswith("The guard took a fixed mask: fold-over.")


@pytest.mark.parametrize(
    ("enforced", "words"), [(True, "Lines that it leaves out are dropped here"), (False, "Nobody")]
)
def test_a_mask_that_is_sent_to_nobody_is_no_fallback(enforced: bool, words: str) -> None:
    told = row(MASK | {"sent": False, "enforced": enforced})
    assert told["state"] == "mask"
    assert words in told["why"]


def test_a_fallback_is_counted_once_by_message_and_frame() -> None:
    frame = {"kind": "frame", "fallback": True, "incomplete": ""}
    (scan,) = board(MASK, APPLIED, frame).changes(-1)
    assert scan["n_fallbacks"] == 1


def test_a_later_repetition_begins_a_row_anew_and_keeps_a_mask_that_serves_all() -> None:
    later = [lines(1), MASK, lines(5, repetition=1), lines(0)]
    told = row(HELLO, *later)
    assert (told["repetition"], told["got"], told["asked"]) == (1, [5], [1, 2, 3, 4])
    told = row(HELLO | {"repetition": "each"}, *later)
    assert "asked" not in told


def test_an_image_is_kept_as_png_and_one_that_is_cut_short_is_not() -> None:
    made = board({"kind": "image", "height": 2, "width": 3, "ms": None})
    assert made.image("a", 0) is None
    event = {"scan": "a", "slice": 0, "repetition": 0, "kind": "image", "ms": "7"}
    made.take(event | {"height": 2, "width": 3}, bytes(range(6)))
    png = made.image("a", 0)
    assert png is not None
    assert png.startswith(b"\x89PNG")
    assert made.image("b", 0) is made.image("a", 1) is None


def test_scans_and_slices_are_bounded_and_those_that_run_stay_longest() -> None:
    made = Board()
    for number in range(MOST_SCANS):
        made.take({"kind": "begun", "scan": str(number), **BEGUN})
    made.take({"kind": "ended", "scan": "3", "counts": {}})
    made.take({"kind": "failed", "scan": "new", "words": "ConfigError: no"})
    assert [scan["scan"] for scan in made.changes(-1)] == ["0", "1", "2", "4", "5", "new"]
    for number in range(MOST_SLICES + 5):
        made.take({"scan": "new", "slice": number, "repetition": 0, **lines(1)})
    assert len(made.changes(-1)[-1]["rows"]) == MOST_SLICES
