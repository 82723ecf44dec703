"""When not to: whether a slice is unlike what a sampler learned from, in words.

A sampler that chooses for a slice of a kind it never saw chooses at random, and looks sure. The
guard looks at the numbers of `guard_numbers` before the mask leaves. Checks that have a name come
first, each a weighted sum of numbers against a limit; then an envelope: the Mahalanobis distance
from the scans that were learned from, in standardised numbers, one envelope for every kind of
channels (`mnet.masks.strata`). There is no network: all of it stands in the sampler's card, and
`training.guard` makes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..masks.line_plan import LinePlan
from ..masks.strata import channels
from .guard_numbers import NAMES, Float, guard_numbers

EMPTY = "empty slice"
NOISE = "noise only"
PARTIAL = "partial echo"
FOLDED = "fold-over"
PHANTOM = "phantom"
UNLIKE = "unlike what it learned from"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Check:
    """What has a name: an alarm where the weighted sum of numbers exceeds the limit."""

    reason: str
    weights: Float  # (NAMES,)
    limit: float

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Check":
        """Read {"reason", "weights": {name: number}, "limit"}; ValueError for anything else."""
        _keys("a check of a guard", content, ("reason", "weights", "limit"))
        reason, weights = content["reason"], content["weights"]
        if not isinstance(reason, str) or not reason:
            raise ValueError(f"a check of a guard has the reason {reason!r}, expected words")
        if not isinstance(weights, Mapping) or not weights or set(weights) - set(NAMES):
            raise ValueError(f"check {reason!r} weighs {weights!r}, expected some of {NAMES}")
        values = _numbers(f"weights of check {reason!r}", list(weights.values()), len(weights))
        row = np.zeros(len(NAMES))
        row[[NAMES.index(name) for name in weights]] = values
        (limit,) = _numbers(f"limit of check {reason!r}", [content["limit"]], 1)
        return cls(reason=reason, weights=row, limit=float(limit))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        weights = {n: float(w) for n, w in zip(NAMES, self.weights, strict=True) if w}
        return {"reason": self.reason, "weights": weights, "limit": self.limit}

    def score(self, numbers: Float) -> Float:
        """Return the weighted sum of numbers (..., NAMES)."""
        score: Float = numbers @ self.weights
        return score


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Envelope:
    """Where ordinary scans of one kind of channels lie."""

    centre: Float  # (NAMES,)
    scale: Float  # (NAMES,), above 0
    whiten: Float  # (NAMES, NAMES) lower triangular, of standardised numbers
    limit: float  # of the distance

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Envelope":
        """Read {"centre", "scale", "whiten": rows up to the diagonal, "limit"}, or ValueError."""
        _keys("an envelope of a guard", content, ("centre", "scale", "whiten", "limit"))
        n = len(NAMES)
        centre, scale = (_numbers(key, content[key], n) for key in ("centre", "scale"))
        if not (scale > 0).all():
            raise ValueError(f"scale of an envelope is {scale.tolist()}, expected above 0")
        rows = content["whiten"]
        if not isinstance(rows, Sequence) or len(rows) != n:
            raise ValueError(f"whiten of an envelope: expected {n} rows, the first of one number")
        whiten = np.zeros((n, n))
        for i, row in enumerate(rows):
            whiten[i, : i + 1] = _numbers(f"row {i} of whiten", row, i + 1)
        (limit,) = _numbers("limit of an envelope", [content["limit"]], 1)
        return cls(centre=centre, scale=scale, whiten=whiten, limit=float(limit))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        rows = [_short(row[: i + 1]) for i, row in enumerate(self.whiten)]
        known = {"centre": _short(self.centre), "scale": _short(self.scale)}
        return known | {"whiten": rows, "limit": self.limit}

    def distance(self, numbers: Float) -> Float:
        """Return the Mahalanobis distance of numbers (..., NAMES)."""
        away = (numbers - self.centre) / self.scale
        distance: Float = np.sqrt(np.square(away @ self.whiten.T).sum(-1))
        return distance


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guard:
    """The checks in their order, and an envelope for every kind of channels that was learned."""

    checks: tuple[Check, ...]
    envelopes: Mapping[str, Envelope]  # by mnet.masks.strata.Channels

    @classmethod
    def from_json(cls, content: Any) -> "Guard":
        """Read {"checks", "envelopes"} of a card; "made" may say where they come from.

        Raises
        ------
        ValueError
            If anything is missing, unknown, or no finite number where one is due.
        """
        _keys("a guard", content, ("checks", "envelopes"), ("made",))
        checks, envelopes = content["checks"], content["envelopes"]
        kinds = {"single", "few", "many"}
        if not isinstance(envelopes, Mapping) or not envelopes or set(envelopes) - kinds:
            raise ValueError(f"envelopes of a guard: expected some of {sorted(kinds)}")
        if not isinstance(checks, Sequence) or isinstance(checks, str):
            raise ValueError(f"checks of a guard: expected a list, got {type(checks).__name__}")
        return cls(
            checks=tuple(Check.from_json(check) for check in checks),
            envelopes={kind: Envelope.from_json(value) for kind, value in envelopes.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        envelopes = {kind: envelope.to_json() for kind, envelope in self.envelopes.items()}
        return {"checks": [check.to_json() for check in self.checks], "envelopes": envelopes}

    @torch.inference_mode()
    def verdict(self, z: Tensor, plan: LinePlan, coils: Tensor) -> str:
        """Return why a slice is none for the sampler, "" where it is one.

        From its features (1, 3, x, L) and coil features (1, 19) as the sampler gets them, on the
        processor.
        """
        numbers = guard_numbers(z, plan, coils)
        return self.judge(numbers, int(coils[0, 0].round()))

    def judge(self, numbers: Float, n_coils: int) -> str:
        """Return the same from `guard_numbers` (NAMES,) and the number of channels."""
        if not np.isfinite(numbers).all():  # ratios of nothing to nothing
            return EMPTY
        for check in self.checks:
            if check.score(numbers) > check.limit:
                return check.reason
        envelope = self.envelopes.get(channels(n_coils))
        if envelope is None:
            return f"{UNLIKE}: {'one channel' if n_coils == 1 else f'{n_coils} channels'}"
        return UNLIKE if envelope.distance(numbers) > envelope.limit else ""


def _short(values: Float) -> list[float]:
    """Return numbers to six digits: a limit is not known better, and a card is read by people."""
    return [float(f"{value:.6g}") for value in values]


def _keys(what: str, content: Any, needed: Sequence[str], more: Sequence[str] = ()) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{what} is {type(content).__name__}, expected a mapping of {needed}")
    missing, unknown = set(needed) - set(content), set(content) - {*needed, *more}
    if missing or unknown:
        raise ValueError(f"{what} has {sorted(content)}, expected {[*needed]}")


def _numbers(what: str, values: Any, n: int) -> Float:
    if not isinstance(values, Sequence) or any(
        isinstance(value, bool) or not isinstance(value, int | float) for value in values
    ):
        raise ValueError(f"{what} of a guard: expected {n} numbers, got {values!r}")
    found = np.array(values, dtype=float)
    if found.shape != (n,) or not np.isfinite(found).all():
        raise ValueError(f"{what} of a guard: expected {n} finite numbers, got {values!r}")
    return found
