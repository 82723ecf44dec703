"""Which line is measured at which echo of which shot.

A shot is an echo train; shots are arrays (shots, train) of rows, in time from left to right and
then downwards, IDLE where an echo is not used. The calibration and the lines of a mask are shots of
their own, for the mask is not known while the calibration is measured. With a train of 1 a rule is
an order in time.

- `linear`: ascending, neighbours follow each other in a train.
- `centre-out`: the same from the centre outwards.
- `shuffled`: any line at any echo, drawn.
- `continuous`: the echo is a continuous function of ky. Ascending bands in the calibration; beyond
  its edges the masks' lines go on with the echo that the edge has, and turn back.
- `bands`: ascending bands of ky at one echo each, in the calibration and, by itself, in the rest.

Signal that jumps from line to line makes ghosts, and signal that changes slowly blurs. What an
order costs depends on the object, too: `mnet scan --physics tse` says it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..masks.line_plan import Bool, LinePlan

Rule = Literal["linear", "centre-out", "shuffled", "continuous", "bands"]
Rows = NDArray[np.intp]
RULES: tuple[Rule, ...] = get_args(Rule)
IDLE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOrder:
    """A rule, the length of a train, and the echo at which k = 0 is measured.

    Raises
    ------
    ValueError
        For a rule that is not known, a train below 1, or an effective echo outside the train.
    """

    rule: Rule = "linear"
    train: int = 1
    effective_echo: int | None = None  # from 1; where not given, wherever the rule puts it
    seed: int = 0  # of `shuffled`

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"order {self.rule!r}, expected one of {', '.join(RULES)}")
        if self.train < 1:
            raise ValueError(f"an echo train of {self.train}, expected at least 1")
        if self.effective_echo is not None and not 1 <= self.effective_echo <= self.train:
            raise ValueError(f"effective echo {self.effective_echo}, expected 1 to {self.train}")

    def calibration(self, plan: LinePlan) -> Rows:
        """Return the calibration of a plan as shots (shots, train)."""
        if self.rule in ("continuous", "bands"):
            return self._bands(plan)
        shots = self._plain(plan.calibration, plan, 0)
        return np.roll(shots, self._turn(plan), axis=1)

    def adaptive(self, mask: Bool, plan: LinePlan) -> Rows:
        """Return the lines of a mask (n,) that are not calibration as shots (shots, train)."""
        rest = mask & ~plan.calibration
        if self.rule == "continuous":
            return self._beyond(rest, plan)
        if self.rule == "bands":
            return _by_band(np.flatnonzero(rest), self.train)
        return np.roll(self._plain(rest, plan, 1), self._turn(plan), axis=1)

    def centre_echo(self, plan: LinePlan) -> int:
        """Return the echo, from 1, at which the row of k = 0 is measured."""
        return _echo_of(plan.center, self.calibration(plan))

    def _plain(self, rows: Bool, plan: LinePlan, part: int) -> Rows:
        found = np.flatnonzero(rows)
        if self.rule == "centre-out":
            found = found[np.argsort(np.abs(found - plan.center), kind="stable")]
        elif self.rule == "shuffled":
            found = np.random.default_rng([self.seed, part]).permutation(found)
        return _filled(found, self.train).reshape(-1, self.train)

    def _turn(self, plan: LinePlan) -> int:
        """Return by how many echoes all trains are turned round to put k = 0 where it shall be."""
        if self.effective_echo is None:
            return 0
        return self.effective_echo - _echo_of(plan.center, self._plain(plan.calibration, plan, 0))

    def _bands(self, plan: LinePlan) -> Rows:
        """Put bands of ky at one echo each, ascending, k = 0 at the effective echo.

        Where that is not the middle one, one side of the calibration is folded: echoes that the
        other side has not used up go on beyond its turning point.
        """
        rows = np.flatnonzero(plan.calibration)
        wanted = self.effective_echo or self.train // 2 + 1
        for key in _folds(rows - plan.center):
            shots = _by_band(rows[np.lexsort((rows, key))], self.train)
            if _echo_of(plan.center, shots) == wanted:
                return shots
        raise ValueError(f"{rows.size} calibration rows put k = 0 at no echo {wanted}")

    def _beyond(self, rest: Bool, plan: LinePlan) -> Rows:
        """Go on outwards with the echoes of the calibration's edges, and turn back to the rest."""
        inside, shots = np.flatnonzero(plan.calibration), self._bands(plan)
        rows = np.flatnonzero(rest)
        below, above = rows[rows < inside[0]][::-1], rows[rows > inside[-1]]
        low, high = _echo_of(inside[0], shots), _echo_of(inside[-1], shots)
        if (low > self.train // 2) == (high > self.train // 2):
            # the echo follows the distance alone: both sides share every echo
            away = np.maximum(inside[0] - rows, rows - inside[-1])
            sequence = rows[np.argsort(away, kind="stable")]
            echoes = [*range(1, self.train + 1)][:: -1 if low > self.train // 2 else 1]
        else:
            sequence = np.concatenate([below, above[::-1]])
            echoes = (
                [*range(low, 0, -1), *range(low + 1, self.train + 1)]
                if high == self.train
                else [*range(1, high), *range(self.train, high - 1, -1)]
            )
        placed = np.empty((-(-rows.size // self.train), self.train), dtype=np.intp)
        placed[:, np.array(echoes) - 1] = _by_band(sequence, self.train)
        return placed


def default_rule(train: int) -> Rule:
    """Return the rule for trains of a length: `continuous`, for single lines `linear`."""
    return "continuous" if train > 1 else "linear"


def _folds(offset: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Give keys to sort rows by: their offset from k = 0, then folded below it, then above."""
    yield offset
    for turn in range(offset.size + 1):
        yield np.where(2 * offset < -turn, -turn - offset, offset)
        yield np.where(2 * offset > turn, turn - offset, offset)


def _filled(rows: Rows, train: int) -> Rows:
    return np.concatenate([rows, np.full(-rows.size % train, IDLE, dtype=np.intp)])


def _by_band(rows: Rows, train: int) -> Rows:
    """Return shots (shots, train) whose echoes are successive parts of `rows`."""
    return _filled(rows, train).reshape(train, -1).T


def _echo_of(row: int, shots: Rows) -> int:
    """Return the echo, from 1, of the measured row nearest to `row`."""
    away = np.where(shots == IDLE, np.iinfo(np.intp).max, np.abs(shots - row))
    return int(away.argmin() % shots.shape[1]) + 1
