import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet.masks import densities
from mnet.masks.line_plan import LinePlan
from mnet.masks.patterns import Pattern, reach_of


def make_plan(n, acceleration, first=0, last=None):
    acquirable = np.zeros(n, dtype=bool)
    acquirable[first:last] = True
    return LinePlan.of(acquirable, acceleration)


@settings(max_examples=60, deadline=None)
@given(st.integers(48, 260), st.sampled_from([2.0, 4.0, 6.0, 8.0]), st.integers(0, 2**31))
def test_a_pattern_realised_for_its_own_plan_is_its_mask(n, acceleration, seed):
    plan = make_plan(n, acceleration)
    mask = densities.uniform_random(plan, np.random.default_rng(seed))
    pattern = Pattern.of(mask, plan)
    assert np.array_equal(pattern.realise(plan), mask)
    stored = Pattern.from_json(json.loads(json.dumps(pattern.to_json())))
    assert np.array_equal(stored.realise(plan), mask)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(48, 260),
    st.integers(48, 372),
    st.sampled_from([3.0, 4.0, 8.0]),
    st.integers(0, 8),
    st.integers(0, 2**31),
)
def test_a_pattern_realised_elsewhere_keeps_budget_and_window(n, other, acceleration, cut, seed):
    plan = make_plan(n, 4.0)
    mask = densities.variable_density(plan, np.random.default_rng(seed))
    there = make_plan(other, acceleration, cut, other - cut // 2)
    realised = Pattern.of(mask, plan).realise(there)
    assert realised.sum() == there.n_lines
    assert not np.any(realised & ~there.acquirable)
    assert np.all(realised[there.calibration])


def test_complementary_combs_stay_complementary_at_another_size():
    plan, there = make_plan(160, 4.0), make_plan(224, 4.0)
    mask = densities.from_density(plan, densities.power_law(plan, 1.0))
    realised = Pattern.of(mask, plan).realise(there)
    outer = there.distance() > 0.35  # where density is below 1/2
    mirrored = realised[(2 * there.center - np.arange(224)) % 224]
    both = (realised & mirrored & outer).sum()
    assert both <= 2  # a mirrored comb would have all of them
    share = [
        np.interp(q, np.flatnonzero(m) / m.size, np.linspace(0, 1, m.sum()))
        for m in (mask, realised)
        for q in (0.25, 0.75)
    ]
    assert share[0] == pytest.approx(share[2], abs=0.04)
    assert share[1] == pytest.approx(share[3], abs=0.04)


def test_a_mask_of_another_plan_is_refused():
    with pytest.raises(ValueError, match="expected 40 and 16"):
        Pattern.of(np.ones(160, dtype=bool), make_plan(160, 4.0))


def test_distances_are_counted_from_the_calibration_in_units_of_the_furthest_movable_row():
    calibration = np.zeros(12, dtype=bool)
    calibration[5:8] = True
    plan = LinePlan(
        acquirable=np.ones(12, dtype=bool), calibration=calibration, n_lines=6, center=6
    )
    away = [5, 4, 3, 2, 1, 0, -1, 0, 1, 2, 3, 4]
    np.testing.assert_allclose(reach_of(plan), np.array(away) / 5)


def test_without_calibration_distances_are_counted_from_the_centre():
    none = np.zeros(11, dtype=bool)
    plan = LinePlan(acquirable=~none, calibration=none, n_lines=4, center=5)
    np.testing.assert_allclose(reach_of(plan), np.abs(np.arange(11) - 5) / 5)
    mask = none.copy()
    mask[[1, 5, 6, 9]] = True
    assert np.array_equal(Pattern.of(mask, plan).realise(plan), mask)
    assert Pattern.of(mask, plan).upper == (True, True, False, True), "k = 0 counts as above"


def test_where_one_side_has_no_rows_the_other_one_has_all_lines():
    pattern = Pattern.of(densities.equispaced(make_plan(64, 4.0)), make_plan(64, 4.0))
    for first, last in ((24, None), (0, 40)):
        plan = make_plan(64, 2.0, first, last)
        realised = pattern.realise(plan)
        assert realised.sum() == plan.n_lines
        assert not realised[~plan.acquirable].any()


def test_a_pattern_without_lines_takes_the_first_rows_and_a_full_budget_none():
    plan = make_plan(48, 3.0)
    movable, n_calibration = np.flatnonzero(plan.movable), int(plan.calibration.sum())
    first = Pattern(reach=(), upper=()).realise(plan)
    assert np.array_equal(first, plan.mask(movable[: plan.n_movable]))
    whole = replace(plan, n_lines=n_calibration)
    pattern = Pattern.of(densities.low_pass(plan), plan)
    assert np.array_equal(pattern.realise(whole), plan.calibration)
    outermost = Pattern(reach=(1.0,), upper=(True,)).realise(
        replace(whole, n_lines=n_calibration + 1)
    )
    assert outermost[movable[-1]], "above k = 0, where the first row lies below"


def test_a_mask_without_its_calibration_is_refused():
    plan = make_plan(160, 4.0)
    mask = np.zeros(160, dtype=bool)
    mask[:40] = True
    with pytest.raises(ValueError, match="mask has 40 lines, 0 of them calibration"):
        Pattern.of(mask, plan)
