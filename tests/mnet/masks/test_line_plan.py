import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mnet.masks import densities, line_plan
from mnet.masks.line_plan import LinePlan


@st.composite
def plans(draw: st.DrawFn) -> LinePlan:
    """Any matrix from 32 rows up, padded edges, k = 0 off the middle."""
    n = draw(st.integers(32, 400))
    below, above = draw(st.integers(0, n // 5)), draw(st.integers(0, n // 5))
    acquirable = np.zeros(n, dtype=bool)
    acquirable[below : n - above] = True
    center = n // 2 + draw(st.integers(-n // 10, n // 10))
    acceleration = draw(st.floats(1.0, 10.0))
    assume(line_plan.budget(int(acquirable.sum()), acceleration) >= 2)
    return LinePlan.of(acquirable, acceleration, center)


DRAWS = {
    "uniform_random": lambda p, seed: densities.uniform_random(p, np.random.default_rng(seed)),
    "variable_density": lambda p, seed: densities.variable_density(p, np.random.default_rng(seed)),
    "equispaced": lambda p, seed: densities.equispaced(p, (seed % 10) / 10),
    "low_pass": lambda p, seed: densities.low_pass(p),
    "from_density": lambda p, seed: densities.from_density(p, (1 - p.distance()) ** (seed % 9)),
}


@pytest.mark.parametrize("name", sorted(DRAWS))
@given(plan=plans(), seed=st.integers(0, 1000))
def test_every_mask_has_exactly_the_budget_the_calibration_and_no_other_rows(name, plan, seed):
    mask = DRAWS[name](plan, seed)
    assert mask.dtype == bool
    assert mask.sum() == plan.n_lines
    assert np.all(mask[plan.calibration])
    assert not np.any(mask & ~plan.acquirable)


@given(plan=plans(), seed=st.integers(0, 1000))
def test_any_density_gives_exactly_the_budget(plan, seed):
    density = np.random.default_rng(seed).exponential(size=plan.acquirable.size)
    density[:: 1 + seed % 5] = 0
    assert densities.from_density(plan, density).sum() == plan.n_lines


def test_the_centre_block_is_symmetric_for_odd_lengths_and_one_row_low_for_even_ones():
    for n in range(1, 41):
        for length in range(1, n + 1):
            rows = np.flatnonzero(line_plan.centre_block(np.ones(n, dtype=bool), length, n // 2))
            assert rows.size == length
            assert np.array_equal(rows, np.arange(rows[0], rows[0] + length))
            middle = n // 2
            below, above = middle - rows[0], rows[-1] - middle
            assert below == above + (length % 2 == 0)


def test_the_centre_block_of_368_rows_and_29_lines_is_fastmri_s():
    # floor((368 - 29 + 1) / 2) = 170; symmetric about DC at 184
    rows = np.flatnonzero(line_plan.centre_block(np.ones(368, dtype=bool), 29, 184))
    assert (rows[0], rows[-1]) == (170, 198)


def test_the_centre_block_moves_where_partial_fourier_cuts_it():
    acquirable = np.zeros(64, dtype=bool)
    acquirable[28:] = True
    assert np.flatnonzero(line_plan.centre_block(acquirable, 16, 32))[[0, -1]].tolist() == [28, 43]


def test_the_centre_block_ends_with_the_last_acquirable_row_where_that_is_near():
    acquirable = np.arange(64) < 40
    for center, expected in ((36, [24, 39]), (31, [23, 38]), (32, [24, 39])):
        block = line_plan.centre_block(acquirable, 16, center)
        assert np.flatnonzero(block)[[0, -1]].tolist() == expected


def test_a_plan_keeps_the_centre_and_divides_the_rows_that_it_is_told():
    rows = np.ones(100, dtype=bool)
    plan = LinePlan.of(rows, 4.0, 40, n_rows=160)
    assert (plan.center, plan.n_lines) == (40, 40)
    middle = np.flatnonzero(plan.calibration)
    assert (middle[0] + middle[-1] + 1) // 2 == 40
    assert LinePlan.of(rows, 4.0).n_lines == 25
    assert line_plan.budget(7, 8.0) == 1  # one line at least, and a whole number
    assert line_plan.budget(7, 2.0) == 3
    assert isinstance(line_plan.budget(7, 2.0), int)


def test_a_centre_block_longer_than_the_acquirable_rows_is_refused():
    with pytest.raises(ValueError, match=r"10 calibration rows, but only 4"):
        line_plan.centre_block(np.arange(16) < 4, 10, 8)


def test_a_centre_block_across_a_gap_is_refused():
    acquirable = np.ones(32, dtype=bool)
    acquirable[16] = False
    with pytest.raises(ValueError, match="not all acquirable"):
        line_plan.centre_block(acquirable, 8, 16)


def test_a_comb_of_local_acceleration_two_alternates_exactly():
    plan = LinePlan.of(np.ones(128, dtype=bool), 2.0)
    outside = densities.from_density(plan, np.ones(128))[plan.movable]
    gaps = np.diff(np.flatnonzero(outside))
    assert set(gaps.tolist()) <= {2, 3}
    assert densities.equispaced(plan).sum() == 64


def test_a_density_of_one_half_takes_either_a_row_or_its_mirror_image():
    n, center = 129, 64
    block = line_plan.centre_block(np.ones(n, dtype=bool), 17, center)
    plan = LinePlan(
        acquirable=np.ones(n, dtype=bool), calibration=block, n_lines=17 + 56, center=center
    )
    mask = densities.from_density(plan, np.ones(n))
    mirrored = mask[2 * center - np.arange(n)]
    assert not np.any(mask & mirrored & plan.movable)
    assert np.all((mask | mirrored)[plan.movable])


@given(n_lines=st.integers(2, 200))
def test_calibration_is_a_third_within_sixteen_and_half(n_lines):
    n = line_plan.n_calibration(n_lines)
    assert n <= n_lines // 2
    assert n in (n_lines // 3, 16, n_lines // 2)


def test_budgets_of_the_paper():
    assert line_plan.budget(368, 4) == 92
    assert line_plan.n_calibration(92) == 30
    assert line_plan.budget(322, 4) == 80


def test_an_acceleration_below_one_is_refused():
    with pytest.raises(ValueError, match=r"0\.5"):
        line_plan.budget(100, 0.5)


def test_a_plan_that_cannot_hold_its_calibration_is_refused():
    block = line_plan.centre_block(np.ones(32, dtype=bool), 16, 16)
    with pytest.raises(ValueError, match="8 lines cannot hold 16"):
        LinePlan(acquirable=np.ones(32, dtype=bool), calibration=block, n_lines=8, center=16)


def test_calibration_outside_the_acquirable_rows_is_refused():
    everything = np.ones(32, dtype=bool)
    with pytest.raises(ValueError, match="outside the acquirable"):
        LinePlan(acquirable=np.arange(32) < 10, calibration=everything, n_lines=32, center=16)


def test_random_masks_follow_their_seed():
    plan = LinePlan.of(np.ones(256, dtype=bool), 4.0)
    for draw in (densities.uniform_random, densities.variable_density):
        first, again, other = (draw(plan, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_variable_density_prefers_the_centre_and_uniform_does_not():
    plan = LinePlan.of(np.ones(256, dtype=bool), 4.0)

    def mean_distance(draw) -> float:
        drawn = [draw(plan, np.random.default_rng(seed)) & plan.movable for seed in range(200)]
        return float(np.mean([plan.distance()[mask].mean() for mask in drawn]))

    # movable rows lie between 0.08 and 1: a uniform draw averages 0.54
    assert mean_distance(densities.uniform_random) == pytest.approx(0.54, abs=0.02)
    assert mean_distance(densities.variable_density) < 0.35


def test_low_pass_is_one_block_at_the_centre():
    mask = densities.low_pass(LinePlan.of(np.ones(100, dtype=bool), 4.0))
    rows = np.flatnonzero(mask)
    assert np.array_equal(rows, np.arange(rows[0], rows[0] + 25))
    assert abs(rows.mean() - 50) <= 0.5


@given(plan=plans(), n=st.integers(1, 24))
def test_a_narrowed_plan_frees_lines_of_the_calibration_and_keeps_the_budget(plan, n):
    narrow = plan.narrowed(n)
    assert narrow.n_lines == plan.n_lines
    assert narrow.calibration.sum() == min(n, plan.calibration.sum())
    assert not np.any(narrow.calibration & ~plan.calibration)
    freed = int(plan.calibration.sum() - narrow.calibration.sum())
    assert narrow.n_movable == plan.n_movable + freed


def test_the_calibration_width_can_be_chosen():
    rows = np.ones(160, dtype=bool)
    assert LinePlan.of(rows, 8.0).calibration.sum() == 10
    plan = LinePlan.of(rows, 8.0, n_calibration=6)
    assert np.flatnonzero(plan.calibration).tolist() == [77, 78, 79, 80, 81, 82]
    assert plan.n_movable == 14
    with pytest.raises(ValueError, match="20 lines cannot hold 24 calibration lines"):
        LinePlan.of(rows, 8.0, n_calibration=24)


@pytest.mark.parametrize(
    ("n", "acceleration", "group", "expected"),
    [
        (256, 4.0, 8, (24, 40)),  # a third of 64 is 21: three echoes of a train would be idle
        (256, 3.0, 20, (40, 40)),  # 28 of 85
        (64, 2.0, 1, (16, 16)),
        (64, 4.0, 12, (12, 0)),  # 16 lines hold one train: 8 rounded up
        (20, 1.25, 12, (12, 0)),
        (48, 3.0, 16, (16, 0)),  # the budget is one train
        (96, 2.0, 16, (16, 32)),  # whole trains fit the budget exactly
        (100, 2.0, 12, (24, 24)),  # 16 of 50, two lines left over
    ],
)
def test_calibration_and_adaptive_lines_are_whole_trains(n, acceleration, group, expected):
    plan = LinePlan.of(np.ones(n, dtype=bool), acceleration, group_size=group)
    assert (int(plan.calibration.sum()), plan.n_movable) == expected
    assert plan.n_lines <= line_plan.budget(n, acceleration)


def test_a_budget_below_one_train_is_refused():
    with pytest.raises(ValueError, match="16 lines do not fill an echo train of 20"):
        LinePlan.of(np.ones(64, dtype=bool), 4.0, group_size=20)


def test_plans_that_say_the_same_are_equal_and_others_are_not():
    rows = np.ones(64, dtype=bool)
    one, same = (LinePlan.of(rows.copy(), 4.0) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    others = [LinePlan.of(rows, 5.0), LinePlan.of(rows, 4.0, 31), one.narrowed(6), "a plan"]
    assert all(one != other for other in others)
