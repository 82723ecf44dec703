import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet import masks, sense
from mnet.masks import Bool, Lines
from training import icd


def quadratic(n: int, seed: int):
    """Return a loss of masks with interactions, as a linear reconstructor would have."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator) / n**0.5
    value = torch.randn(n, generator=generator).abs()

    def loss(mask: torch.Tensor) -> torch.Tensor:
        missing = 1 - mask
        return (missing * value).sum(-1) + (missing @ root).square().sum(-1)

    return loss


def exact_pass(loss, lines: Lines, start: Bool) -> tuple[Bool, float]:
    """One pass of ICD as published: every free row is tried for every movable line."""
    mask, best = start.copy(), float(loss(torch.from_numpy(start).float()[None])[0])
    for line in np.flatnonzero(start & lines.movable):
        mask[line] = False
        winner, free = line, np.flatnonzero(~mask & lines.movable)
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
    lines = Lines.plan(np.arange(n) >= seed % 5, 2.5)
    start = masks.uniform_random(lines, np.random.default_rng(seed))
    kept = start.copy()
    loss = quadratic(n, seed)
    found = icd.descend(loss, lines, start, shortlist=shortlist)
    assert np.array_equal(start, kept)
    assert found.loss <= found.start_loss
    assert found.mask.sum() == lines.n_lines
    assert np.all(found.mask[lines.calibration])
    assert not np.any(found.mask & ~lines.acquirable)
    assert found.loss == pytest.approx(float(loss(torch.from_numpy(found.mask).float()[None])[0]))


@pytest.mark.parametrize("seed", range(4))
def test_a_shortlist_of_all_rows_is_the_published_pass(seed):
    lines = Lines.plan(np.ones(48, dtype=bool), 2.0)
    start = masks.uniform_random(lines, np.random.default_rng(seed))
    loss = quadratic(48, seed)
    mask, best = exact_pass(loss, lines, start)
    found = icd.descend(loss, lines, start, shortlist=48)
    assert found.loss == pytest.approx(best, rel=1e-5)
    assert np.array_equal(found.mask, mask)


@pytest.mark.parametrize("seed", range(4))
def test_a_short_list_finds_most_of_what_the_published_pass_finds(seed):
    lines = Lines.plan(np.ones(96, dtype=bool), 3.0)
    start = masks.uniform_random(lines, np.random.default_rng(seed))
    loss = quadratic(96, seed)
    full = icd.descend(loss, lines, start, shortlist=96)
    short = icd.descend(loss, lines, start, shortlist=8)
    assert short.start_loss - short.loss > 0.8 * (full.start_loss - full.loss)
    assert short.n_evaluations < full.n_evaluations / 3


def test_the_optimum_stays_where_it_is():
    lines = Lines.plan(np.ones(48, dtype=bool), 3.0)
    best = masks.low_pass(lines)
    value = torch.from_numpy(np.where(best, 10.0, 1.0)).float()
    found = icd.descend(lambda m: ((1 - m) * value).sum(-1), lines, best)
    assert np.array_equal(found.mask, best)
    assert found.loss == found.start_loss


def test_a_tie_is_not_a_reason_to_move():
    lines = Lines.plan(np.ones(48, dtype=bool), 3.0)
    start = masks.equispaced(lines)
    found = icd.descend(lambda m: (1 - m).sum(-1), lines, start)
    assert np.array_equal(found.mask, start)


def test_a_limit_on_moves_limits_the_work():
    lines = Lines.plan(np.ones(96, dtype=bool), 3.0)
    start = masks.uniform_random(lines, np.random.default_rng(0))
    found = icd.descend(quadratic(96, 0), lines, start, shortlist=4, max_moves=3)
    assert found.n_evaluations == 1 + 3 * (3 + 4)
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
