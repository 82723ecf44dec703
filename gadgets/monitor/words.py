"""How a slice came by its lines, in words for whoever stands beside the scanner."""

from typing import Literal

from .feed import Json

State = Literal["lines", "mask", "predicted", "fixed", "fallback"]
REFUSALS = {
    "late": "the sequence got it too late",
    "stale": "the sequence had a newer one",
    "foreign": "the sequence took it for another scan's",
    "invalid": "the sequence found that it breaks the rules of its hello",
    "unpaired": "the sequence was not paired with this scan",
    "disagreement": "sequence and MRD header disagree",
}


def told(row: Json, head: Json) -> tuple[State, str]:
    """Return the state of a slice, and a sentence that says why."""
    mask = row.get("mask")
    if mask is None:
        if row.get("fallback"):
            return (
                "fallback",
                "The sequence measures its fallback mask; no other was there in time.",
            )
        return "lines", ""
    took = _ms(mask["ms"])
    if mask["reason"] != "predicted":
        return "fallback", f"No mask left: {mask['reason']}."
    if row.get("fallback"):
        deadline = head.get("hello", {}).get("deadline_ms")
        if deadline is not None and mask["ms"] > deadline:
            return "fallback", f"The mask took {took}; the deadline is {deadline:g} ms."
        why = REFUSALS.get(row.get("nack", ""), "the sequence did not have it in time")
        return "fallback", f"The mask took {took}{_deadline(head)}, but {why}."
    chosen = _chosen(mask)
    if not mask["sent"]:
        what = (
            "Lines that it leaves out are dropped here" if mask["enforced"] else "Nobody obeys it"
        )
        return "mask", f"Mask in {took}. {what}.{chosen}"
    if "applied" not in row and "frame" not in row:
        return "mask", f"Mask sent after {took}{_deadline(head)}.{chosen}"
    state: State = "fixed" if mask["guard"] else "predicted"
    return state, f"Mask in {took}{_deadline(head)}.{chosen}"


def _ms(ms: float) -> str:
    return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"


def _deadline(head: Json) -> str:
    deadline = head.get("hello", {}).get("deadline_ms")
    return "" if deadline is None else f" of {deadline:g} ms"


def _chosen(mask: Json) -> str:
    """Say what the sampler or its guard decided."""
    if mask["guard"]:
        return f" The guard took a fixed mask: {mask['guard']}."
    choice = mask["choice"]
    return f" {choice[0].upper()}{choice[1:]}." if choice else ""
