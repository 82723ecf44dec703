import json

import numpy as np
import pytest

from mnet.sampler.guard import EMPTY, NOISE, PARTIAL, UNLIKE, Guard
from mnet.sampler.guard_numbers import NAMES
from tests.training.helpers.generated import cohort, write_scans
from training.config import told
from training.guard.fit import discriminant, fit, limit_of, shrunk
from training.guard.looks import Looks
from training.guard.train_guard import Config, train


def looks(n, seed, n_coils=4, **moved):
    """Make numbers of unit variance, of which some are moved."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, len(NAMES)))
    for name, by in moved.items():
        numbers[:, NAMES.index(name)] += by
    return Looks(numbers=numbers, n_coils=np.full(n, n_coils), own=np.ones(n, dtype=bool))


ODD = {
    "noise only": looks(100, 1, decay=-20.0),
    "partial echo": looks(100, 2, echo=-20.0),
    "fold-over": looks(100, 3, edges=20.0),
    "phantom": looks(100, 4, curvature=-4.0, half=4.0),
}


def test_a_limit_is_in_the_gap_where_there_is_one_else_the_looser_quantile():
    ordinary = [np.linspace(0, 1, 101), np.linspace(0, 2, 101)]
    assert limit_of(ordinary, np.full(10, 5.8), 0.1) == pytest.approx(3.8)
    assert limit_of(ordinary, np.full(10, 1.7), 0.1) == pytest.approx(1.8)
    assert limit_of(ordinary, np.zeros(0), 0.1) == pytest.approx(1.8)


def test_a_discriminant_weighs_what_differs():
    weights = discriminant(looks(400, 0).numbers, ODD["phantom"].numbers)
    order = np.argsort(-np.abs(weights))
    assert {NAMES[i] for i in order[:2]} == {"curvature", "half"}
    assert weights[NAMES.index("curvature")] < 0 < weights[NAMES.index("half")]


@pytest.mark.parametrize("n", [5, 50, 5000])
def test_a_covariance_is_shrunk_until_it_can_be_inverted_and_no_further(n):
    rng = np.random.default_rng(0)
    truth = np.diag([1.0, 4.0, 9.0, 16.0, 25.0, 36.0])
    rows = rng.multivariate_normal(np.zeros(6), truth, n)
    found = shrunk(rows)
    assert np.linalg.cond(found) < 1e3
    if n == 5000:  # a diagonal of five thousand: two per cent is one standard deviation
        np.testing.assert_allclose(np.diag(found), np.diag(truth), rtol=0.1)


def test_a_guard_alarms_on_the_share_that_it_may_and_on_what_is_far_away():
    guard = fit(looks(600, 5), looks(300, 6), ODD, alarms=0.01, n_least=24)
    said = [guard.judge(row, 4) for row in looks(1000, 7).numbers]
    # four checks and an envelope may have one per cent each, three of them none: cases lie apart
    assert said.count("") > 950
    for case, odd in ODD.items():
        assert [guard.judge(row, 4) for row in odd.numbers].count(case) > 90
    assert guard.judge(np.full(len(NAMES), 30.0) * (np.arange(len(NAMES)) == 0), 4) == UNLIKE


def test_a_kind_of_channels_with_few_scans_has_no_envelope():
    few, many = looks(30, 1), looks(10, 2, n_coils=16)
    both = Looks(
        numbers=np.concatenate([few.numbers, many.numbers]),
        n_coils=np.concatenate([few.n_coils, many.n_coils]),
        own=np.ones(40, dtype=bool),
    )
    guard = fit(both, looks(0, 3), ODD, alarms=0.01, n_least=24)
    assert set(guard.envelopes) == {"few"}
    with pytest.raises(ValueError, match="no kind of channels has 100 training scans"):
        fit(both, looks(0, 3), ODD, alarms=0.01, n_least=100)


@pytest.mark.slow
def test_a_run_leaves_a_guard_with_figures_of_scans_that_did_not_set_it(tmp_path):
    for seed, name in enumerate(("base", "validation", "test")):
        write_scans(tmp_path / name, cohort(n=16, seed=20 + seed))
    config = Config(
        scans=str(tmp_path),
        cohorts=("base",),
        validation=("validation",),
        tested=("test",),
        weights=str(tmp_path / "guard"),
        accelerations=(4.0,),
        every=2,
        n_least=3,
    )
    figures = train(config)
    card = json.loads((tmp_path / "guard.json").read_text())
    assert card["validation"] == figures
    assert card["training"] == json.loads(json.dumps(told(config)))
    assert str(tmp_path) not in json.dumps(card)
    guard = Guard.from_json(card["guard"])
    assert [check.reason for check in guard.checks] == [*ODD]
    odd = figures["odd scans"]
    for case in (EMPTY, NOISE, PARTIAL):
        assert odd[case]["named_percent"] == 100, case
    assert odd[NOISE]["n_scans"] == figures["alarms on ordinary scans"]["test"]["n_scans"]
    assert set(figures["alarms on ordinary scans"]) == {"validation", "test"}
