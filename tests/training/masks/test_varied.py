import numpy as np
import pytest
import torch

from mnet.masks import densities
from mnet.masks.family import family
from mnet.masks.line_plan import LinePlan
from mnet.masks.patterns import reach_of
from training.masks.icd import line_gradient, losses_of
from training.masks.population import Search, population
from training.masks.varied import carried, neighbours, on_reference

REFERENCE = LinePlan.of(np.ones(96, dtype=bool), 4.0)
PLANS = [
    LinePlan.of(np.ones(72, dtype=bool), 4.0),
    LinePlan.of(np.ones(131, dtype=bool), 4.0),
    LinePlan.of((np.arange(170) >= 6) & (np.arange(170) < 166), 4.0),
]


def loss_on(plan, wanted=0.5, side=1.0):
    """Return a loss that is low where lines crowd at a reach, more so on the upper side."""
    value = torch.from_numpy(np.exp(-(((reach_of(plan) - wanted) / 0.2) ** 2))).float()
    upper = torch.arange(plan.acquirable.size) >= plan.center
    value = value * torch.where(upper, side, 1.0)
    crowded = torch.from_numpy(np.eye(value.numel(), k=1) + np.eye(value.numel(), k=-1)).float()

    def loss(mask):
        together = (mask @ crowded * mask).sum(-1)
        return 2 - ((mask * value).sum(-1) - 0.1 * together) / plan.n_lines

    return loss


def test_a_mask_carried_to_its_own_plan_is_itself_even_with_a_line_taken_out():
    mask = densities.variable_density(REFERENCE, np.random.default_rng(0))
    assert np.array_equal(carried(mask, REFERENCE, REFERENCE), mask)
    line = np.flatnonzero(mask & REFERENCE.movable)[3]
    mask[line] = False
    assert np.array_equal(carried(mask, REFERENCE, REFERENCE), mask)


@pytest.mark.parametrize("plan", PLANS)
def test_a_line_taken_out_of_the_reference_is_taken_out_of_every_plan(plan):
    mask = densities.equispaced(REFERENCE)
    assert carried(mask, REFERENCE, plan).sum() == plan.n_lines
    mask[np.flatnonzero(mask & REFERENCE.movable)[3]] = False
    lacking = plan.n_lines - carried(mask, REFERENCE, plan).sum()
    assert lacking == max(1, round(plan.n_movable / REFERENCE.n_movable))


def test_rows_stand_for_those_as_far_out_on_their_side():
    assert np.array_equal(neighbours(REFERENCE, REFERENCE), np.diag(REFERENCE.movable * 1.0))
    for plan in PLANS:
        weights = neighbours(REFERENCE, plan)
        movable = REFERENCE.movable
        np.testing.assert_allclose(weights[movable].sum(1), 1, rtol=1e-5)
        assert not weights[~movable].any()
        # as far out, but for the ends of a side: an even matrix and an even block of calibration
        # make one side up to two rows shorter than the other
        spacing = np.diff(np.sort(np.unique(reach_of(plan)[plan.movable]))).max()
        apart = np.abs(weights[movable] @ reach_of(plan) - reach_of(REFERENCE)[movable])
        assert np.median(apart) < 1e-6
        assert apart.max() <= 2 * spacing + 1e-6
        lower = np.arange(96) < REFERENCE.center
        assert not weights[lower & movable][:, plan.center :].any()


@pytest.mark.parametrize("plan", PLANS)
def test_a_scan_s_loss_is_relative_to_its_best_family_member(plan):
    loss = loss_on(plan)
    relative = on_reference(loss, plan, REFERENCE)
    mask = family(REFERENCE)[3]
    known = losses_of(loss, [carried(mask, REFERENCE, plan)], 1)[0]
    best = min(losses_of(loss, [*family(plan)], 4))
    assert losses_of(relative, [mask], 1)[0] == pytest.approx(known / best, rel=1e-6)


def test_gradients_are_those_at_the_rows_of_the_scan():
    plan = PLANS[1]
    loss = loss_on(plan)
    mask = family(REFERENCE)[3]
    slope = line_gradient(on_reference(loss, plan, REFERENCE), mask)
    inner = line_gradient(loss, carried(mask, REFERENCE, plan))
    best = min(losses_of(loss, [*family(plan)], 4))
    np.testing.assert_allclose(slope, neighbours(REFERENCE, plan) @ inner / best, atol=1e-6)


def test_a_pattern_found_on_three_widths_is_good_at_a_fourth_that_was_not_searched():
    losses = [on_reference(loss_on(plan), plan, REFERENCE) for plan in PLANS]
    start = family(REFERENCE)[0]
    (found,) = population(losses, REFERENCE, [start], Search(n_screen=3, n_passes=3))
    assert found.loss < found.start_loss
    other = LinePlan.of(np.ones(210, dtype=bool), 5.0)
    unseen = on_reference(loss_on(other), other, REFERENCE)
    now, before = losses_of(unseen, [found.mask, start], 2)
    assert now < before
    # at least half of what it gains where it was searched
    assert before - now > 0.5 * (found.start_loss - found.loss)
