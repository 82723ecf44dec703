import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mnet.masks import densities
from mnet.masks.line_plan import LinePlan
from mnet.masks.strata import Stratum
from mnet.recon.modl import MoDL
from mnet.weight_files import save_weights
from tests.training.helpers.generated import volumes
from training.data.corpus import Cohort, draw, save, scan_path
from training.data.mask_file import read_masks
from training.masks.population import (
    Config,
    Search,
    best_first,
    members,
    perturbed,
    population,
    reference_plan,
    run,
    shapes,
)

SEARCH = Search(n_screen=4, shortlist=5, n_passes=6)


def scan_losses(n_scans: int, n: int, seed: int = 0, spread: float = 0.3):
    """Return losses that share what lines are worth, and differ from scan to scan."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator) / n**0.5
    value = torch.randn(n, generator=generator).abs()

    def one(scan: int):
        own = spread * torch.randn(n, generator=generator.manual_seed(1000 * seed + scan)).abs()

        def loss(mask: torch.Tensor) -> torch.Tensor:
            missing = 1 - mask
            return (missing * (value + own)).sum(-1) + (missing @ root).square().sum(-1)

        return loss

    return [one(scan) for scan in range(n_scans)]


def mean_loss(losses, mask) -> float:
    return float(np.mean([float(f(torch.from_numpy(mask[None]).float())[0]) for f in losses]))


def test_the_mask_that_is_best_on_the_mean_of_separable_losses_is_found():
    rng = np.random.default_rng(0)
    plan = LinePlan.of(np.ones(14, dtype=bool), 2.0)
    worth = [torch.from_numpy(rng.random(14)).float() for _ in range(6)]
    losses = [lambda m, v=v: 1 + ((1 - m) * v).sum(-1) for v in worth]
    rows = np.flatnonzero(plan.movable)
    every = [plan.mask(np.array(c)) for c in itertools.combinations(rows, plan.n_movable)]
    best = min(mean_loss(losses, mask) for mask in every)
    own = [min(every, key=lambda mask, f=f: mean_loss([f], mask)) for f in losses]
    assert all(mean_loss(losses, mask) > best for mask in own)  # no single scan's mask will do
    search = Search(n_screen=6, shortlist=5, n_passes=6)
    (found,) = population(losses, plan, [densities.uniform_random(plan, rng)], search)
    assert found.loss == pytest.approx(best, rel=1e-6)


def test_ends_are_masks_of_the_plan_and_never_worse_than_their_starts():
    plan = LinePlan.of(np.arange(60) >= 6, 3.0)
    losses = scan_losses(12, 60)
    rng = np.random.default_rng(1)
    starts = [densities.low_pass(plan), densities.uniform_random(plan, rng)]
    for start, end in zip(starts, population(losses, plan, starts, SEARCH), strict=True):
        assert end.mask.sum() == plan.n_lines
        assert np.all(end.mask[plan.calibration])
        assert not np.any(end.mask & ~plan.acquirable)
        assert end.start_loss == pytest.approx(mean_loss(losses, start))
        assert end.loss == pytest.approx(mean_loss(losses, end.mask))
        assert end.loss < end.start_loss


def test_screening_on_a_few_scans_nearly_finds_what_all_scans_find():
    plan = LinePlan.of(np.ones(80, dtype=bool), 4.0)
    losses = scan_losses(30, 80, seed=2)
    start = densities.variable_density(plan, np.random.default_rng(2))
    (few,) = population(losses, plan, [start], Search(n_screen=5, n_passes=4))
    (full,) = population(losses, plan, [start], Search(n_screen=30, n_passes=4))
    assert few.start_loss - few.loss > 0.9 * (full.start_loss - full.loss)
    assert few.n_evaluations < full.n_evaluations / 2


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [5, 60, 150, 250])
def test_a_search_that_is_stopped_and_resumed_ends_as_one_that_is_not(tmp_path, after):
    plan = LinePlan.of(np.ones(48, dtype=bool), 3.0)
    losses = scan_losses(8, 48, seed=3)
    starts = [densities.low_pass(plan), densities.uniform_random(plan, np.random.default_rng(3))]
    expected = population(losses, plan, starts, SEARCH)
    calls = itertools.count()

    def fragile(loss):
        def call(mask):
            if next(calls) == after:
                raise StoppedError
            return loss(mask)

        return call

    state = tmp_path / "search.json"
    wrapped = [fragile(loss) for loss in losses]
    with pytest.raises(StoppedError):
        population(wrapped, plan, starts, SEARCH, state=state)
    ends = population(wrapped, plan, starts, SEARCH, state=state)
    for end, other in zip(ends, expected, strict=True):
        assert np.array_equal(end.mask, other.mask)
        assert np.array_equal(end.losses, other.losses)
        assert (end.start_loss, end.n_evaluations) == (other.start_loss, other.n_evaluations)


def test_a_finished_state_answers_without_evaluating_anything(tmp_path):
    plan = LinePlan.of(np.ones(48, dtype=bool), 3.0)
    losses, state = scan_losses(5, 48), tmp_path / "search.json"
    starts = [densities.low_pass(plan)]
    first = population(losses, plan, starts, SEARCH, state=state)

    def refused(mask):
        raise AssertionError("evaluated again")

    again = population([refused] * 5, plan, starts, SEARCH, state=state)
    assert np.array_equal(first[0].mask, again[0].mask)


def test_a_state_of_another_search_is_refused_and_kept(tmp_path):
    plan = LinePlan.of(np.ones(48, dtype=bool), 3.0)
    losses, state = scan_losses(5, 48), tmp_path / "search.json"
    starts = [densities.low_pass(plan)]
    population(losses, plan, starts, SEARCH, state=state, about={"weights": "a"})
    content = state.read_bytes()
    with pytest.raises(ValueError, match="other scans, starts or settings"):
        population(losses, plan, starts, SEARCH, state=state, about={"weights": "b"})
    with pytest.raises(ValueError, match="other scans, starts or settings"):
        population(losses, plan, starts, Search(seed=1), state=state, about={"weights": "a"})
    assert state.read_bytes() == content
    state.write_bytes(content[:40])
    with pytest.raises(ValueError, match="no state"):
        population(losses, plan, starts, SEARCH, state=state, about={"weights": "a"})


def test_a_start_of_another_plan_is_refused():
    plan = LinePlan.of(np.ones(48, dtype=bool), 3.0)
    with pytest.raises(ValueError, match="expected a mask of 16"):
        population(scan_losses(2, 48), plan, [np.ones(48, dtype=bool)], SEARCH)


def test_members_come_best_first_and_a_perturbed_mask_differs_in_as_many_lines_as_told():
    plan = LinePlan.of(np.ones(48, dtype=bool), 3.0)
    losses, rng = scan_losses(5, 48), np.random.default_rng(0)
    members = [densities.uniform_random(plan, rng) for _ in range(6)]
    means = [mean_loss(losses, mask) for mask in best_first(losses, members, 5)]
    assert means == sorted(means)
    mask = perturbed(members[0], plan, 3, rng)
    assert (mask & ~members[0]).sum() == 3
    assert mask.sum() == plan.n_lines
    assert np.all(mask[plan.calibration])


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("varied")
    anatomy = volumes()
    for number, n_coils in enumerate([1, 2, 4, 8, 3, 5, 8, 2]):
        cohort = Cohort(parts=(), n=1, seed=number, accelerations=(4.0,), reference=48, largest=96)
        sample = draw(anatomy, cohort, number)
        kspace = sample.kspace[:1].repeat(n_coils, 1, 1)
        csm = sample.csm[:1].repeat(n_coils, 1, 1) * n_coils**-0.5
        save(
            replace(sample, kspace=kspace, clean=kspace.clone(), csm=csm), scan_path(folder, number)
        )
    return folder


def test_the_scans_of_a_stratum_come_from_the_smallest_matrix_to_the_largest(scans):
    few = members(scans, Stratum(acceleration=4.0, channels="few"))
    known = shapes(scans)
    assert sorted(few) == [1, 2, 4, 5, 7]
    assert [known[n][1] for n in few] == sorted(known[n][1] for n in few)
    assert members(scans, Stratum(acceleration=4.0, channels="single")) == [0]
    assert len(members(scans, Stratum(acceleration=4.0))) == 8
    assert members(scans, Stratum(acceleration=8.0)) == []


@pytest.mark.parametrize("n_calibration", [0, 5])
def test_the_reference_plan_has_the_calibration_of_its_stratum(n_calibration):
    plan = reference_plan(160, Stratum(acceleration=8.0, n_calibration=n_calibration))
    assert plan.n_lines == 20
    assert plan.calibration.sum() == (n_calibration or 10)


def test_the_driver_writes_the_ends_best_first_and_does_nothing_twice(scans, tmp_path):
    torch.manual_seed(0)
    save_weights(MoDL(4, 2, 1, n_cg=3), tmp_path / "modl", {})
    settings = {
        "scans": str(scans),
        "out": str(tmp_path / "population.npz"),
        "acceleration": 4.0,
        "channels": "few",
        "weights": str(tmp_path / "modl"),
        "reference": 64,
        "n_scans": 3,
        "n_rows": 8,
        "n_screen": 2,
        "shortlist": 2,
        "n_passes": 1,
    }
    told: list[str] = []
    ends = run(Config(**settings), told.append)
    assert len(ends) == 2
    assert ends[0].loss <= ends[1].loss
    assert ends[0].losses.size == 3
    assert told
    file = read_masks(tmp_path / "population.npz")
    assert np.array_equal(file.masks[0], ends[0].mask)
    assert file.masks[0].size == 64
    assert [p.name for p in tmp_path.glob("*state*")] == []
    told.clear()
    again = run(Config(**settings), told.append)
    assert not told
    assert np.array_equal(again[0].mask, ends[0].mask)
    with pytest.raises(ValueError, match="other settings"):
        run(Config(**(settings | {"seed": 1})))
    with pytest.raises(ValueError, match="no scans of few channels, 6x"):
        run(Config(**(settings | {"acceleration": 6.0, "out": str(tmp_path / "other.npz")})))
    assert json.dumps(file.settings)
