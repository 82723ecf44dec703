"""Masks that follow from a density, on plans small enough to count rows by hand."""

import numpy as np

from mnet.masks import densities
from mnet.masks.line_plan import LinePlan


def rows(mask):
    return np.flatnonzero(mask).tolist()


def plan_of(n, calibration, n_lines, first=0, last=None):
    acquirable, block = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    acquirable[first:last] = True
    block[list(calibration)] = True
    return LinePlan(acquirable=acquirable, calibration=block, n_lines=n_lines, center=n // 2)


def test_a_power_law_falls_from_one_at_the_centre_to_nothing_at_the_cutoff():
    plan = plan_of(17, range(7, 10), 8)
    away = np.abs(np.arange(17) - 8) / 8
    np.testing.assert_allclose(plan.distance(), away)
    np.testing.assert_allclose(densities.power_law(plan, 2.0), (1 - away) ** 2)
    halved = densities.power_law(plan, 3.0, cutoff=0.5)
    np.testing.assert_allclose(halved[4:13], (1 - 2 * away[4:13]) ** 3)
    assert rows(halved) == list(range(5, 12)), "rows at the cutoff and beyond have none"
    flat = densities.power_law(plan, 0.0, cutoff=0.5)
    assert flat.tolist() == (away < 0.5).tolist()


def test_a_comb_takes_the_middle_row_of_every_gap_unless_it_is_shifted():
    plan = plan_of(16, (8,), 6)  # five of fifteen movable rows
    movable = [row for row in range(16) if row != 8]
    assert rows(densities.equispaced(plan)) == sorted([8, *movable[1::3]])
    assert rows(densities.equispaced(plan, 0.0)) == sorted([8, *movable[::3]])


def test_of_two_rows_equally_near_the_lower_one_is_taken():
    assert rows(densities.low_pass(plan_of(17, (8,), 4))) == [6, 7, 8, 9]


def test_even_placement_alternates_where_the_density_is_one_half():
    plan = plan_of(33, (16,), 17)
    mask = densities.from_density(plan, np.ones(33))
    mirrored = mask[::-1]
    assert (mask != mirrored)[plan.movable].all(), "one row of each pair"
    assert mask.sum() == 17


def test_a_density_above_one_is_cut_at_one_line_a_row_and_the_rest_spread():
    plan = plan_of(33, (16,), 13)
    steep = np.where(np.abs(np.arange(33) - 16) <= 3, 1e6, 1.0)
    mask = densities.from_density(plan, steep)
    assert mask[13:20].all()
    assert mask.sum() == 13
    assert mask[:13].any()
    assert mask[20:].any()


def test_a_side_without_rows_leaves_its_lines_to_the_other():
    plan = plan_of(32, range(14, 18), 10, first=14)
    mask = densities.from_density(plan, np.ones(32))
    assert mask.sum() == 10
    assert not mask[:14].any()


def often(draw):
    """How often each row is drawn; never twice."""
    plan = plan_of(32, range(14, 18), 14)
    drawn = [draw(plan, np.random.default_rng(seed)) for seed in range(300)]
    assert all(mask.sum() == 14 for mask in drawn)
    return np.mean(drawn, axis=0)


def test_a_uniform_draw_takes_each_movable_row_as_often():
    movable = np.delete(often(densities.uniform_random), range(14, 18))
    np.testing.assert_allclose(movable, 10 / 28, atol=0.1)  # 3.6 standard errors


def test_a_variable_density_draw_takes_the_middle_far_more_often():
    share = often(densities.variable_density)
    assert share[[12, 13, 18, 19]].mean() > 5 * share[[1, 2, 29, 30]].mean()
