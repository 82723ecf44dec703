"""The numbers of a guard, from looks at ordinary scans and at odd ones.

A limit is a quantile of ordinary looks, of the training scans or of the validation scans, whichever
is looser. Where all but a few of a case lie apart the limit is in the middle of the gap.
"""

from collections.abc import Mapping

import numpy as np

from mnet.masks.strata import channels
from mnet.sampler.guard import FOLDED, NOISE, PARTIAL, PHANTOM, Check, Envelope, Guard
from mnet.sampler.guard_numbers import NAMES, Float
from training.guard.looks import Looks

# what the object decides, whatever the coils and the matrix: a phantom is told by these alone
OBJECT = (
    *("lines", "noise", "support", "fall-off", "floor 0.02", "floor 0.1", "floor 0.3"),
    *("decay", "edges", "curvature", "quarter", "half"),
)
LEAST_SCALE = 0.01  # numbers are near one: what varies less than this does not vary
TRIMMED = 0.025  # share of looks furthest out that an envelope is fitted without
STRAYS = 0.05  # share of a case that may lie among ordinary scans and still count as apart
ROUNDS = 3  # of trimming: who is furthest out hardly changes after
# noise alone is as bright as its noise, and no line of it is stronger than the others
NAMED = {NOISE: {"noise": 1.0, "decay": -1.0}, PARTIAL: {"echo": -1.0}, FOLDED: {"edges": 1.0}}


def fit(
    training: Looks, validation: Looks, odd: Mapping[str, Looks], alarms: float, n_least: int
) -> Guard:
    """Return the guard of ordinary looks, whose checks alarm on the share `alarms` of them each.

    A kind of channels with fewer than `n_least` training scans has no envelope: it is unlike what
    was learned from. ValueError if that is so of every kind.
    """
    weights = {reason: _weights(named) for reason, named in NAMED.items()}
    if len(odd[PHANTOM]):
        weights[PHANTOM] = discriminant(training.numbers, odd[PHANTOM].numbers)
    checks = []
    for reason, row in weights.items():
        ordinary = [part.numbers @ row for part in (training, validation) if len(part)]
        limit = limit_of(ordinary, odd[reason].numbers @ row, alarms)
        checks.append(Check(reason=reason, weights=row, limit=limit))
    scans = [channels(n) for n in training.n_coils[training.own].tolist()]
    envelopes = {
        kind: _envelope(training.of_kind(kind), validation.of_kind(kind), alarms)
        for kind in sorted(set(scans))
        if scans.count(kind) >= n_least
    }
    if not envelopes:
        raise ValueError(f"no kind of channels has {n_least} training scans for an envelope")
    return Guard(checks=tuple(checks), envelopes=envelopes)


def _weights(named: Mapping[str, float]) -> Float:
    return np.array([named.get(name, 0.0) for name in NAMES])


def limit_of(ordinary: list[Float], odd: Float, alarms: float) -> float:
    """Return the score above which is an alarm, from scores of ordinary looks by group.

    Where there is no odd look, as of small scans that cannot be folded, ordinary ones decide alone.
    """
    most = max(float(np.quantile(scores, 1 - alarms)) for scores in ordinary)
    return max(most, (most + float(np.quantile(odd, STRAYS))) / 2) if odd.size else most


def discriminant(ordinary: Float, odd: Float) -> Float:
    """Return the weights (NAMES,) of Fisher's linear discriminant of OBJECT, others being 0."""
    at = [NAMES.index(name) for name in OBJECT]
    centre, scale = standard(ordinary[:, at])
    a, b = ((numbers[:, at] - centre) / scale for numbers in (ordinary, odd))
    within = np.concatenate([a - a.mean(0), b - b.mean(0)])
    weights = np.zeros(len(NAMES))
    weights[at] = np.linalg.solve(shrunk(within), b.mean(0) - a.mean(0)) / scale
    return _short(weights)


def standard(numbers: Float) -> tuple[Float, Float]:
    """Return median and robust standard deviation (NAMES,) of looks (looks, NAMES).

    From the outer twentieths: of a number that half of the scans share, such as the rows, quartiles
    would say that it does not vary.
    """
    low, centre, high = np.quantile(numbers, (0.05, 0.5, 0.95), axis=0)
    spread = (high - low) / 3.29  # of a normal distribution its standard deviation
    return _short(centre), _short(np.maximum(spread, LEAST_SCALE))


def shrunk(rows: Float) -> Float:
    """Return the covariance of centred rows (n, p), shrunk as far as their number asks for.

    The oracle approximating estimator of Chen, Wiesel, Eldar and Hero, IEEE Trans. Signal Process.
    58 (2010) 5016, doi:10.1109/TSP.2010.2053029.
    """
    n, p = rows.shape
    sample = rows.T @ rows / n
    squares, mean = float((sample**2).sum()), float(np.trace(sample)) / p
    share = ((1 - 2 / p) * squares + (p * mean) ** 2) / (
        (n + 1 - 2 / p) * max(squares - p * mean**2, 1e-12)
    )
    share = min(1.0, share)
    target: Float = (1 - share) * sample + share * max(mean, 1e-6) * np.eye(p)
    return target


def _envelope(training: Looks, validation: Looks, alarms: float) -> Envelope:
    """Fit centre and covariance on all but the looks furthest out."""
    centre, scale = standard(training.numbers)
    rows = (training.numbers - centre) / scale
    kept = np.ones(len(rows), dtype=bool)
    for _ in range(ROUNDS):
        mean = rows[kept].mean(0)
        factor = np.linalg.cholesky(shrunk(rows[kept] - mean))
        away = np.square(np.linalg.solve(factor, (rows - mean).T)).sum(0)
        kept = away <= np.quantile(away, 1 - TRIMMED)
    whiten = _short(np.tril(np.linalg.inv(factor)))
    found = Envelope(centre=_short(centre + scale * mean), scale=scale, whiten=whiten, limit=0.0)
    distances = [found.distance(part.numbers) for part in (training, validation) if len(part)]
    limit = max(float(np.quantile(values, 1 - alarms)) for values in distances)
    return Envelope(centre=found.centre, scale=scale, whiten=whiten, limit=limit)


def _short(values: Float) -> Float:
    """Round to five digits, which cards keep."""
    short: Float = np.vectorize(lambda value: float(f"{value:.5g}"))(values)
    return short
