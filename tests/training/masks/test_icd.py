import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet.masks import densities
from mnet.masks.family import family
from mnet.masks.line_plan import Bool, LinePlan
from mnet.physics import sense
from training.masks import icd


def quadratic(n: int, seed: int):
    """Return a loss of masks with interactions, as a linear reconstructor would have."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator) / n**0.5
    value = torch.randn(n, generator=generator).abs()

    def loss(mask: torch.Tensor) -> torch.Tensor:
        missing = 1 - mask
        return (missing * value).sum(-1) + (missing @ root).square().sum(-1)

    return loss


def exact_pass(loss, plan: LinePlan, start: Bool) -> tuple[Bool, float]:
    """One pass of ICD as published: every free row is tried for every movable line."""
    mask, best = start.copy(), float(loss(torch.from_numpy(start).float()[None])[0])
    for line in np.flatnonzero(start & plan.movable):
        mask[line] = False
        winner, free = line, np.flatnonzero(~mask & plan.movable)
        for target in free[free != line]:
            trial = mask.copy()
            trial[target] = True
            value = float(loss(torch.from_numpy(trial).float()[None])[0])
            if value < best:
                winner, best = target, value
        mask[winner] = True
    return mask, best


@settings(max_examples=20, deadline=None)
@given(n=st.integers(40, 90), seed=st.integers(0, 100), shortlist=st.integers(1, 8))
def test_a_label_is_never_worse_than_its_start_and_keeps_the_budget(n, seed, shortlist):
    plan = LinePlan.of(np.arange(n) >= seed % 5, 2.5)
    start = densities.uniform_random(plan, np.random.default_rng(seed))
    kept = start.copy()
    loss = quadratic(n, seed)
    found = icd.descend(loss, plan, start, shortlist=shortlist)
    assert np.array_equal(start, kept)
    assert found.loss <= found.start_loss
    assert found.mask.sum() == plan.n_lines
    assert np.all(found.mask[plan.calibration])
    assert not np.any(found.mask & ~plan.acquirable)
    assert found.loss == pytest.approx(float(loss(torch.from_numpy(found.mask).float()[None])[0]))


@pytest.mark.parametrize("seed", range(4))
def test_the_reference_is_the_published_pass(seed):
    plan = LinePlan.of(np.ones(48, dtype=bool), 2.0)
    start = densities.uniform_random(plan, np.random.default_rng(seed))
    loss = quadratic(48, seed)
    mask, best = exact_pass(loss, plan, start)
    found = icd.descend_exact(loss, plan, start)
    assert found.loss == pytest.approx(best, rel=1e-5)
    assert np.array_equal(found.mask, mask)
    n_free = int(plan.acquirable.sum()) - plan.n_lines
    assert found.n_evaluations == 1 + plan.n_movable * n_free


@pytest.mark.parametrize("seed", range(4))
def test_a_short_list_finds_most_of_what_the_published_pass_finds(seed):
    plan = LinePlan.of(np.ones(96, dtype=bool), 3.0)
    start = densities.uniform_random(plan, np.random.default_rng(seed))
    loss = quadratic(96, seed)
    full = icd.descend_exact(loss, plan, start)
    short = icd.descend(loss, plan, start, shortlist=4)
    assert short.start_loss - short.loss > 0.8 * (full.start_loss - full.loss)
    assert short.n_evaluations < full.n_evaluations / 8


def test_a_tenth_of_the_evaluations_of_a_published_pass_finds_better_masks():
    exact, fast = [], []
    for seed in range(12):
        plan = LinePlan.of(np.ones(112, dtype=bool), 4.0)
        start = densities.variable_density(plan, np.random.default_rng(seed))
        loss = quadratic(112, seed)
        full = icd.descend_exact(loss, plan, start)
        limit = full.n_evaluations // 10
        short = icd.descend(loss, plan, start, n_passes=9, max_evaluations=limit)
        assert short.n_evaluations <= limit
        exact.append(full.loss)
        fast.append(short.loss)
    assert np.mean(fast) <= np.mean(exact)


@pytest.mark.parametrize("seed", range(3))
def test_after_enough_passes_no_single_move_improves_the_mask(seed):
    plan = LinePlan.of(np.ones(24, dtype=bool), 2.0)
    start = densities.uniform_random(plan, np.random.default_rng(seed))
    loss = quadratic(24, seed)
    found = icd.descend_exact(loss, plan, start, n_passes=20)
    for line, row in itertools.product(
        np.flatnonzero(found.mask & plan.movable), np.flatnonzero(~found.mask & plan.movable)
    ):
        trial = found.mask.copy()
        trial[[line, row]] = False, True
        assert float(loss(torch.from_numpy(trial[None]).float())) >= found.loss * (1 - 1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("search", [icd.descend, icd.descend_exact])
def test_a_separable_loss_is_brought_to_the_best_of_all_masks(search, seed):
    rng = np.random.default_rng(seed)
    plan = LinePlan.of(np.ones(12, dtype=bool), 2.0)
    value = torch.from_numpy(rng.random(12)).float()

    def loss(mask: torch.Tensor) -> torch.Tensor:
        return 1 + ((1 - mask) * value).sum(-1).square()

    rows = np.flatnonzero(plan.movable)
    every = [plan.mask(np.array(c)) for c in itertools.combinations(rows, plan.n_movable)]
    best = min(float(loss(torch.from_numpy(mask[None]).float())) for mask in every)
    start = densities.uniform_random(plan, rng)
    assert search(loss, plan, start, n_passes=9).loss == pytest.approx(best, rel=1e-6)


def test_no_mask_is_evaluated_twice():
    plan = LinePlan.of(np.ones(64, dtype=bool), 3.0)
    asked: list[bytes] = []
    inner = quadratic(64, 1)

    def loss(mask: torch.Tensor) -> torch.Tensor:
        if not mask.requires_grad:
            asked.extend(row.numpy().tobytes() for row in mask)
        return inner(mask)

    start = densities.uniform_random(plan, np.random.default_rng(1))
    icd.descend(loss, plan, start, shortlist=12, n_passes=5)
    assert len(asked) == len(set(asked))


def test_a_pass_that_hardly_helps_is_the_last():
    plan = LinePlan.of(np.ones(96, dtype=bool), 3.0)
    start = densities.uniform_random(plan, np.random.default_rng(3))
    loss = quadratic(96, 3)
    few = icd.descend(loss, plan, start, n_passes=20)
    many = icd.descend(loss, plan, start, n_passes=40)
    assert few.n_evaluations == many.n_evaluations


def test_the_optimum_stays_where_it_is():
    plan = LinePlan.of(np.ones(48, dtype=bool), 3.0)
    best = densities.low_pass(plan)
    value = torch.from_numpy(np.where(best, 10.0, 1.0)).float()
    found = icd.descend(lambda m: ((1 - m) * value).sum(-1), plan, best)
    assert np.array_equal(found.mask, best)
    assert found.loss == found.start_loss


def test_a_tie_is_not_a_reason_to_move():
    plan = LinePlan.of(np.ones(48, dtype=bool), 3.0)
    start = densities.equispaced(plan)
    found = icd.descend(lambda m: (1 - m).sum(-1), plan, start)
    assert np.array_equal(found.mask, start)


def test_a_limit_on_moves_limits_the_work():
    plan = LinePlan.of(np.ones(96, dtype=bool), 3.0)
    start = densities.uniform_random(plan, np.random.default_rng(0))
    found = icd.descend(quadratic(96, 0), plan, start, shortlist=4, max_moves=3)
    assert found.n_evaluations == 1 + 3 + 3 * (3 + 4)  # a gradient first gives the order
    assert (found.mask ^ start).sum() <= 6


def test_the_line_gradient_of_sense_data_is_the_slope_of_the_loss():
    generator = torch.Generator().manual_seed(0)
    csm = torch.randn(1, 3, 4, 12, dtype=torch.complex64, generator=generator)
    image = torch.randn(1, 4, 12, dtype=torch.complex64, generator=generator)
    kspace = sense.forward(image, csm, torch.ones(12))

    def loss(mask: torch.Tensor) -> torch.Tensor:
        return (sense.adjoint(kspace, csm, mask) - image).abs().square().sum((-2, -1))

    mask = np.arange(12) % 3 == 0
    slope = icd.line_gradient(loss, mask)
    at = torch.from_numpy(mask).float()[None]
    for row in range(12):
        step = torch.zeros(1, 12)
        step[0, row] = 0.5
        expected = float((loss(at + step) - loss(at - step))[0])  # exact: the loss is quadratic
        assert slope[row] == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_a_loss_without_a_gradient_is_refused():
    with pytest.raises((ValueError, RuntimeError)):
        icd.line_gradient(lambda m: torch.zeros(1, requires_grad=True), np.ones(8, dtype=bool))


def test_of_several_starts_the_best_is_improved_and_each_is_counted_once():
    plan = LinePlan.of(np.ones(64, dtype=bool), 3.0)
    loss = quadratic(64, 3)
    rng = np.random.default_rng(3)
    starts = np.stack([densities.uniform_random(plan, rng) for _ in range(5)])
    values = icd.losses_of(loss, starts, 5)
    found = icd.descend(loss, plan, starts, max_moves=0)
    assert found.start_loss == min(values)
    assert found.n_evaluations == 5 + icd.GRADIENT_COST  # and the slope that orders the lines
    alone = icd.descend(loss, plan, starts[int(np.argmin(values))])
    several = icd.descend(loss, plan, starts)
    assert several.loss <= alone.start_loss
    assert several.n_evaluations <= alone.n_evaluations + 4


def test_a_judge_that_knows_the_starts_is_not_asked_again():
    plan = LinePlan.of(np.ones(64, dtype=bool), 3.0)
    rng = np.random.default_rng(4)
    starts = np.stack([densities.uniform_random(plan, rng) for _ in range(5)])
    judge = icd.Judge(quadratic(64, 4))
    judge(starts)
    found = icd.descend(judge, plan, starts, max_moves=0)
    assert found.n_evaluations == judge.n_evaluations == 5 + icd.GRADIENT_COST


def test_a_start_of_the_wrong_density_costs_more_than_a_family_to_begin_with():
    """Few moves cannot change a density: the best of the family ends lower, as on real scans."""
    plan = LinePlan.of(np.ones(96, dtype=bool), 4.0)
    worth = torch.from_numpy((1 - plan.distance()) ** 2).float()

    def loss(mask):
        crowded = (mask[:, 1:] * mask[:, :-1]).sum(-1)
        return 10 - (mask * worth).sum(-1) + 0.02 * crowded

    wrong = family(plan)[0]
    one = icd.descend(loss, plan, wrong, max_moves=4)
    best = icd.descend(loss, plan, np.stack([wrong, *family(plan)]), max_moves=4)
    assert best.loss < one.loss
    assert best.start_loss == pytest.approx(min(icd.losses_of(loss, [*family(plan)], 4)))
