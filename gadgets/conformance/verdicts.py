"""Verdicts on adaptive-mask/1: what a rule says, whether an end keeps it, and how that is shown.

`gadgets.conformance.sequence_bench` plays the mask peer and MRD sink to a vendor's sequence,
`gadgets.conformance.recon_trials` plays the sequence to a reconstruction. Both end in a list of
verdicts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["pass", "fail", "skipped", "not run"]
CONTRACT = "docs/mask-channel.md"
_MARKS = {"pass": "ok", "fail": "FAIL", "skipped": "-", "not run": "NOT RUN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that the contract asks of one end."""

    name: str
    sentence: str
    section: str  # of docs/mask-channel.md


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was seen of one rule."""

    rule: Rule
    status: Status
    detail: str = ""


def verdict(rule: Rule, faults: Iterable[str], *, seen: bool = True, skip: str = "") -> Verdict:
    """Judge one rule: skipped with a reason, not run without evidence, else by its faults."""
    found = list(faults)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return Verdict(rule=rule, status="fail", detail=found[0] + more)
    if skip:
        return Verdict(rule=rule, status="skipped", detail=skip)
    if not seen:
        return Verdict(rule=rule, status="not run", detail="nothing came that would have shown it")
    return Verdict(rule=rule, status="pass")


def conforms(verdicts: Sequence[Verdict]) -> bool:
    """Say whether every rule was kept; what was not run was not kept."""
    return bool(verdicts) and all(v.status in ("pass", "skipped") for v in verdicts)


def as_text(verdicts: Sequence[Verdict]) -> str:
    """Return one line per rule, and for those not kept the sentence and where it stands."""
    width = max(len(v.rule.name) for v in verdicts)
    lines = []
    for each in verdicts:
        detail = f"  {each.detail}" if each.detail else ""
        lines.append(f"{_MARKS[each.status]:<8}{each.rule.name:<{width}}{detail}".rstrip())
        if each.status in ("fail", "not run"):
            lines.append(f"{'':8}{each.rule.sentence} ({CONTRACT}, section {each.rule.section})")
    n_kept = sum(v.status == "pass" for v in verdicts)
    n_judged = sum(v.status != "skipped" for v in verdicts)
    return "\n".join([*lines, f"{n_kept} of {n_judged} rules kept"])


def as_json(side: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the verdicts as JSON values."""
    return {
        "contract": "adaptive-mask/1",
        "side": side,
        "passed": conforms(verdicts),
        "rules": [
            {
                "name": v.rule.name,
                "status": v.status,
                "detail": v.detail,
                "sentence": v.rule.sentence,
                "section": f"{CONTRACT}, section {v.rule.section}",
            }
            for v in verdicts
        ],
    }
