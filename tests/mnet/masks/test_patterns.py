import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet.masks import densities
from mnet.masks.line_plan import LinePlan
from mnet.masks.patterns import Pattern


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
