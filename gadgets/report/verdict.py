"""What a report says first: whether the adaptive mask is better than masks that do not adapt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NAMES = {
    "mnet_select": "adaptive",
    "best_single": "best fixed",
    "shuffled": "another slice's mask",
    "uniform_random": "uniform random",
    "variable_density": "variable density",
    "equispaced": "equispaced",
    "low_pass": "low-pass",
}
_CONTROLS = {"best_single": "the best fixed mask", "shuffled": "another slice's mask"}


def name(sampler: str) -> str:
    """Name a sampler to a reader."""
    return _NAMES.get(sampler, sampler)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Plain words, with the figures they rest on."""

    better: bool  # than both controls
    headline: str
    figures: str
    others: str  # uniform random, and the reconstructors without a network


def verdict(rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """Judge by the mean NRMSE under MoDL, on the same slices, from rows of `compare`.

    Raises
    ------
    ValueError
        If the adaptive mask or the best fixed mask was not compared under MoDL.
    """
    modl = {row["sampler"]: row for row in rows if row["reconstructor"] == "modl"}
    for sampler in ("mnet_select", "best_single"):
        if sampler not in modl:
            raise ValueError(f"no row of {sampler!r} under MoDL, only {sorted(modl)}")
    ours = modl["mnet_select"]
    present = {control: modl[control] for control in _CONTROLS if control in modl}
    won = [control for control, row in present.items() if ours["nrmse"] < row["nrmse"]]
    return Verdict(
        better=len(won) == len(_CONTROLS),
        headline=_headline(ours, present, won),
        figures=" ".join(_pairs(ours, row, control) for control, row in present.items()),
        others=_others(rows, modl),
    )


def _headline(
    ours: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]], won: Sequence[str]
) -> str:
    shown = {c: f"{_CONTROLS[c]} ({row['nrmse']:.4f})" for c, row in controls.items()}
    lost = [shown[control] for control in controls if control not in won]
    begin = f"The adaptive mask (mean NRMSE {ours['nrmse']:.4f}) is"
    if lost:
        text = f"{begin} not better than {' or '.join(lost)}"
        text += "".join(f", only than {shown[control]}" for control in won)
    else:
        text = f"{begin} better than {' and than '.join(shown[control] for control in won)}"
    if len(controls) < len(_CONTROLS):
        text += "; one slice alone has no other slice's mask to test it against"
    return text + "."


def _pairs(ours: Mapping[str, Any], other: Mapping[str, Any], control: str) -> str:
    pairs = list(zip(ours["per_slice"], other["per_slice"], strict=True))
    lower = sum(a["nrmse"] < b["nrmse"] for a, b in pairs)
    change = (ours["nrmse"] / other["nrmse"] - 1) * 100
    how = "equal" if change == 0 else f"{abs(change):.2g} % {'lower' if change < 0 else 'higher'}"
    return (
        f"Against {_CONTROLS[control]} the error is {how} in the mean under MoDL, and lower in "
        f"{lower} of {len(pairs)} slices."
    )


def _others(rows: Sequence[Mapping[str, Any]], modl: Mapping[str, Mapping[str, Any]]) -> str:
    ours = modl["mnet_select"]["nrmse"]
    parts = []
    if "uniform_random" in modl:
        row = modl["uniform_random"]
        parts.append(
            f"Uniform random masks under MoDL: {row['nrmse']:.4f}, mean of {row['n_seeds']} "
            f"draws; the adaptive mask is {_than(ours, row['nrmse'])}."
        )
    lower = [
        f"{name(sampler)} ({row['nrmse']:.4f})"
        for sampler, row in modl.items()
        if sampler not in ("mnet_select", *_CONTROLS) and row["nrmse"] <= ours
    ]
    if lower:
        parts.append(f"Masks that need no network and are not worse: {', '.join(lower)}.")
    plain = [
        f"{label} {row['nrmse']:.4f} (MoDL is {_than(ours, row['nrmse'])})"
        for method, label in (("cg_sense", "CG-SENSE"), ("zero_filled", "zero-filled"))
        for row in rows
        if (row["sampler"], row["reconstructor"]) == ("mnet_select", method)
    ]
    if plain:
        parts.append(f"On the same adaptive masks: {', '.join(plain)}.")
    return " ".join(parts)


def _than(ours: float, other: float) -> str:
    return "better" if ours < other else "not better"
