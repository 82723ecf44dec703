import itertools
import json

import numpy as np
import pytest

from mnet.masks.densities import low_pass, uniform_random
from mnet.masks.line_plan import LinePlan
from training.masks.diversity import distances
from training.table.adaptivity import sentence, shares
from training.table.bootstrap import Bootstrap, paired
from training.table.scored import Scored
from training.table.spec import Entry, Table, TestCohort, read_table
from training.table.table import MEANS, table


def explicit_intervals(values, block, n, seed):
    """Blocks drawn one by one, from the same generator."""
    rng = np.random.default_rng(seed)
    count = -(-len(values) // block)
    starts = rng.integers(0, len(values), (n, count, 1))[:, :, 0]
    means = []
    for row in starts:
        drawn = [values[(start + i) % len(values)] for start in row for i in range(block)]
        means.append(sum(drawn[: len(values)]) / len(values))
    return np.quantile(means, [0.025, 0.975])


def test_the_bootstrap_is_that_of_blocks_drawn_one_by_one():
    values = np.random.default_rng(1).normal(size=22)
    found = Bootstrap(n=300, block=4, seed=3).interval(values)
    np.testing.assert_allclose(found, explicit_intervals(values, 4, 300, 3))


def test_single_blocks_give_the_interval_of_independent_values():
    values = np.random.default_rng(2).normal(10, 2, size=400)
    low, high = Bootstrap(n=4000, block=1).interval(values)
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_blocks_widen_the_interval_of_neighbours_that_are_alike():
    values = np.repeat(np.random.default_rng(3).normal(size=50), 8)
    widths = [np.diff(Bootstrap(n=2000, block=block).interval(values))[0] for block in (1, 16)]
    # eight equal neighbours count once: the truth is wider by the root of eight
    assert 2.0 < widths[1] / widths[0] < 3.5


def test_subjects_are_resampled_each_by_itself():
    # two subjects far apart, without spread: nothing varies as both keep their share
    assert Bootstrap(n=100, block=2).interval([1.0] * 8, [5.0] * 8) == (3.0, 3.0)


def test_a_subject_of_few_scans_has_an_interval_too():
    low, high = Bootstrap(n=500, block=8).interval([1.0, 2.0, 3.0, 4.0])
    assert low < 2.5 < high


def test_a_paired_difference_is_the_mean_of_relative_differences():
    found = paired(
        [np.array([1.1, 0.9]), np.array([4.2])],
        [np.array([1.0, 1.0]), np.array([4.0])],
        Bootstrap(),
    )
    assert found is not None
    assert found["mean_percent"] == pytest.approx((10 - 10 + 5) / 3)
    # of 10, -10, 5: mean 5/3, squared deviations 69.4, 136.1, 11.1
    assert found["standard_error"] == pytest.approx(np.sqrt((625 + 1225 + 100) / 9 / 2 / 3))
    assert found["ratio_of_means"] == pytest.approx(6.2 / 6.0)
    assert found["wins"] == pytest.approx(1 / 3)
    assert found["ci95"][0] <= found["mean_percent"] <= found["ci95"][1]


def entry(sampler, **changes):
    values = {"reconstructor": "modl", "masks": f"masks/{sampler}", "weights": "weights/modl"}
    return Entry(sampler=sampler, **(values | changes))


def cohort(name, fold, **changes):
    return TestCohort(name=f"test-{name}", subject=name, fold=fold, **changes)


def scored(row, tested, nrmse, accelerations=(4.0, 8.0)):
    scans = {
        i: dict.fromkeys(MEANS, 1.0)
        | {"nrmse": value, "acceleration": accelerations[i % len(accelerations)]}
        for i, value in enumerate(nrmse)
    }
    return Scored(
        entry=row, cohort=tested, scans=scans, subjects=dict.fromkeys(scans, tested.subject)
    )


ROWS = tuple(entry(s) for s in ("mnet_select", "best_single", "uniform_random"))
COHORTS = (cohort("a", "1"), cohort("b", "2"), cohort("c", "1", held_out=False))
SPEC = Table(rows=ROWS, cohorts=COHORTS, deployed="mnet_select", n_bootstrap=50)
ERRORS = {
    # scan 0, 2 at R=4 and 1, 3 at R=8
    ("mnet_select", "a"): [0.09, 0.18, 0.10, 0.19],
    ("best_single", "a"): [0.10, 0.20, 0.10, 0.20],
    ("uniform_random", "a"): [0.20, 0.30, 0.20, 0.30],
    ("mnet_select", "b"): [0.12, 0.20],
    ("best_single", "b"): [0.10, 0.20],
    ("uniform_random", "b"): [0.13, 0.30],
    ("mnet_select", "c"): [9.0, 9.0],
    ("best_single", "c"): [9.0, 9.0],
    ("uniform_random", "c"): [9.0, 9.0],
}


def made(errors=ERRORS):
    rows = {row.sampler: row for row in ROWS}
    tested = {c.subject: c for c in COHORTS}
    return table(SPEC, [scored(rows[s], tested[c], e) for (s, c), e in errors.items()], [])


def row_of(rows, sampler, acceleration, **wanted):
    (found,) = [
        row
        for row in rows
        if (row["sampler"], row["acceleration"]) == (sampler, acceleration)
        and all(row[key] == value for key, value in wanted.items())
    ]
    return found


def test_pooled_rows_are_over_held_out_subjects_alone():
    row = row_of(made()["rows"], "mnet_select", 4.0)
    assert row["nrmse"] == pytest.approx((0.09 + 0.10 + 0.12) / 3)
    assert (row["n_scans"], row["n_subjects"], row["subjects"]) == (3, 2, ["a", "b"])
    assert row["fold"] == "all"
    assert row["paired"]["mean_percent"] == pytest.approx((-10 + 0 + 20) / 3)
    assert row_of(made()["rows"], "best_single", 4.0)["paired"]["mean_percent"] == 0


def test_every_subject_has_its_own_paired_differences():
    folds = made()["folds"]
    assert row_of(folds, "mnet_select", 4.0, subjects=["a"])["paired"]["mean_percent"] == (
        pytest.approx(-5)
    )
    assert row_of(folds, "mnet_select", 4.0, subjects=["b"])["paired"]["mean_percent"] == (
        pytest.approx(20)
    )
    assert not row_of(folds, "mnet_select", 4.0, subjects=["c"])["held_out"]


def test_claims_are_judged_in_every_fold_of_a_held_out_subject():
    claims = {
        (c["claim"], c["kind"], *c["subjects"], c["acceleration"]): c for c in made()["claims"]
    }
    against = "mnet_select against best_single"
    assert claims[against, "must", "a", 4.0]["met"]
    assert claims[against, "aim", "a", 4.0]["met"]
    assert not claims[against, "must", "b", 4.0]["met"]
    assert claims[against, "aim", "a", 8.0]["value"] == pytest.approx(-7.5)
    uniform = claims["mnet_select against uniform_random", "must", "b", 4.0]
    assert uniform["value"] == pytest.approx(0.12 / 0.13)
    assert not uniform["met"]
    assert not any("c" in key for key in claims)


def test_rows_are_only_compared_with_the_baseline_of_the_same_judge():
    other = entry("mnet_select", post_trained=True)
    spec = Table(rows=(*ROWS, other), cohorts=COHORTS[:1], deployed="mnet_select", n_bootstrap=50)
    base = scored(ROWS[1], COHORTS[0], [0.1, 0.2])
    found = table(spec, [scored(other, COHORTS[0], [0.05, 0.1]), base], [])
    assert row_of(found["rows"], "mnet_select", 4.0)["paired"] is None


def test_the_table_is_plain_json():
    text = json.dumps(made(), allow_nan=False)
    assert json.loads(text)["deployed"] == "mnet_select"


def test_shares_of_the_gain_add_up():
    means = {"mnet": 0.09, "best_single": 0.10, "uniform_random": 0.15, "icd_oracle": 0.08}
    found = shares(means, "mnet", "best_single")
    assert found["share_from_family"] == pytest.approx(5 / 6)
    assert found["share_from_adapting"] == pytest.approx(1 / 6)
    assert found["share_of_gap_closed"] == pytest.approx(0.5)
    text = sentence(found, "mnet", "best_single")
    for part in ("10.00 % below best_single", "83.3 % come", "16.7 % from adapting", "50 % of"):
        assert part in text


def test_without_an_oracle_no_gap_is_closed():
    found = shares({"mnet": 0.11, "best_single": 0.10}, "mnet", "best_single")
    assert found["share_of_gap_closed"] is None
    assert "10.00 % above best_single" in sentence(found, "mnet", "best_single")


def test_distances_are_between_scans_of_equal_plan():
    plan = LinePlan.of(np.ones(64, dtype=bool), 4.0)
    other = LinePlan.of(np.ones(80, dtype=bool), 4.0)
    masks = [uniform_random(plan, np.random.default_rng(seed)) for seed in range(4)]
    expected = np.mean([np.sum(a ^ b) for a, b in itertools.combinations(masks, 2)])
    found = distances([(mask, plan) for mask in masks] + [(low_pass(other), other)])
    assert found is not None
    assert found["hamming"] == expected
    assert found["n_pairs"] == 6
    assert distances([(low_pass(plan), plan)] * 3)["hamming"] == 0
    assert distances([(low_pass(plan), plan), (low_pass(other), other)]) is None


def test_masks_that_share_no_movable_line_are_as_far_apart_as_can_be():
    plan = LinePlan.of(np.ones(64, dtype=bool), 4.0)
    rows = np.flatnonzero(plan.movable)
    first, last = plan.mask(rows[: plan.n_movable]), plan.mask(rows[-plan.n_movable :])
    assert distances([(first, plan), (last, plan)])["share"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "table: unknown colour"),
        ({"deployed": "mnet"}, "deployed 'mnet' is unknown"),
        ({"rows": [{"sampler": "best"}]}, "row 0"),
        ({"cohorts": [{"name": "x", "fold": "1", "size": 3}]}, "cohort 0: unknown size"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_name(tmp_path, change, message):
    rows = [
        {"sampler": s, "reconstructor": "cg_sense", "masks": f"masks/{s}"}
        for s in ("best_single", "low_pass")
    ]
    content = {"rows": rows, "cohorts": [{"name": "x", "fold": "1"}], "deployed": "low_pass"}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content))
    assert read_table(path).rows[1].sampler == "low_pass"
    path.write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=message) as error:
        read_table(path)
    assert "table.json" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "magic"}, "sampler 'magic' is unknown"),
        ({"reconstructor": "fft"}, "reconstructor 'fft' is unknown"),
        ({"reconstructor": "cg_sense"}, "cg_sense has no weights"),
        ({"weights": ""}, "modl needs weights"),
    ],
)
def test_a_row_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        entry(**({"sampler": "loupe"} | change))


def test_a_row_named_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        Table(rows=(*ROWS, ROWS[0]), cohorts=COHORTS, deployed="mnet_select")
