import itertools

import numpy as np
import pytest
import torch

from mnet.masks.densities import low_pass, uniform_random
from mnet.masks.line_plan import LinePlan
from mnet.masks.patterns import Pattern
from tests.training.helpers import tiny_scans
from tests.training.helpers.generated import cohort, write_scans
from training.data.corpus import cohort_files, load, save, scan_path
from training.masks.samplers import SIMPLE, Population, fixed, masks_of, medoids, network, shuffled


def make_plan(n=64, acceleration=4.0, edge=0):
    rows = np.arange(n)
    return LinePlan.of((rows >= edge) & (rows < n - edge), acceleration)


def valid(mask, plan):
    return (
        mask.sum() == plan.n_lines
        and not (plan.calibration & ~mask).any()
        and not (mask & ~plan.acquirable).any()
    )


@pytest.fixture
def files(tmp_path):
    for number in range(4):
        save(tiny_scans.draw(number), scan_path(tmp_path, number))
    return cohort_files(tmp_path)


def test_random_masks_follow_from_cohort_and_number_alone(files):
    sampler = SIMPLE["uniform_random"]
    once = masks_of(sampler, files, "a")
    again = masks_of(sampler, files[:2], "a")
    other = masks_of(sampler, files, "b")
    for number in (0, 1):
        np.testing.assert_array_equal(once[number], again[number])
    drawn = [mask.tobytes() for mask in (*once.values(), *other.values())]
    assert len(set(drawn)) == 8


@pytest.mark.parametrize("name", sorted(SIMPLE))
def test_every_simple_sampler_keeps_budget_calibration_and_window(tmp_path, name):
    write_scans(tmp_path, cohort(6))
    paths = cohort_files(tmp_path)
    for path, mask in zip(paths, masks_of(SIMPLE[name], paths, "a").values(), strict=True):
        assert valid(mask, load(path).plan())


def test_a_fixed_sampler_gives_scans_of_a_plan_one_mask(files):
    given = masks_of(fixed(low_pass), files, "a")
    assert len({mask.tobytes() for mask in given.values()}) == 1


class Sensitive(torch.nn.Module):
    """Logits that change with anything a network is given."""

    def forward(self, z, plan, coils):
        rows = torch.arange(plan.acquirable.size)
        return torch.sin(1e3 * z.double().sum() * (1 + rows))[None].float()


def test_a_network_sees_the_calibration_lines_and_nothing_else():
    choose = network(Sensitive())
    rng = np.random.default_rng(0)
    chosen = set()
    for number in range(6):
        sample = tiny_scans.draw(number)
        plan = sample.plan()
        mask = choose(sample, rng)
        assert valid(mask, plan)
        sample.kspace[..., ~torch.from_numpy(plan.calibration)] = 1e3
        np.testing.assert_array_equal(choose(sample, rng), mask)
        chosen.add(mask.tobytes())
    assert len(chosen) == 6


def test_shuffling_hands_every_mask_of_one_plan_to_another_scan():
    plan = make_plan()
    rng = np.random.default_rng(0)
    chosen = {number: uniform_random(plan, rng) for number in range(7)}
    given = shuffled(chosen, [plan] * 7)
    assert list(given) == list(range(7))
    for number, mask in given.items():
        assert (mask != chosen[number]).any()
    as_bytes = [sorted(m.tobytes() for m in masks.values()) for masks in (chosen, given)]
    assert as_bytes[0] == as_bytes[1]


def test_shuffling_keeps_to_accelerations_and_to_the_plan_of_every_scan():
    plans = [
        make_plan(64, 4),
        make_plan(80, 8, 4),
        make_plan(64, 8),
        make_plan(96, 4, 6),
        make_plan(64, 4),
        make_plan(96, 8),
    ]
    rng = np.random.default_rng(0)
    chosen = {number: uniform_random(plan, rng) for number, plan in enumerate(plans)}
    given = shuffled(chosen, plans)
    for number, plan in enumerate(plans):
        assert valid(given[number], plan)
    # the two of one plan among those of 4: one mask changes hands as it is
    swapped = [np.array_equal(given[a], chosen[b]) for a, b in ((0, 4), (4, 0))]
    assert any(swapped)


def test_shuffling_one_scan_leaves_it_its_mask():
    plan = make_plan()
    mask = uniform_random(plan, np.random.default_rng(0))
    np.testing.assert_array_equal(shuffled({0: mask}, [plan])[0], mask)


def test_medoids_are_the_best_of_all_choices():
    plan = make_plan(48)
    rng = np.random.default_rng(1)
    masks = [uniform_random(plan, rng) for _ in range(9)]
    found = medoids([Pattern.of(mask, plan) for mask in masks], plan, 3)
    apart = np.array([[np.sum(a != b) for b in masks] for a in masks])

    def cost(chosen):
        return apart[:, list(chosen)].min(1).sum()

    assert cost(found) == min(cost(c) for c in itertools.combinations(range(9), 3))
    assert len(set(found)) == 3


def test_of_fewer_masks_than_wanted_all_are_medoids():
    plan = make_plan(48)
    rng = np.random.default_rng(1)
    patterns = [Pattern.of(uniform_random(plan, rng), plan) for _ in range(2)]
    assert medoids(patterns, plan, 6) == [0, 1]


def test_equal_masks_have_one_medoid():
    plan = make_plan(48)
    pattern = Pattern.of(low_pass(plan), plan)
    assert len(medoids([pattern] * 4, plan, 1)) == 1


def test_the_population_mask_of_a_plan_is_that_of_the_nearest_acceleration():
    rng = np.random.default_rng(2)
    plans = {a: make_plan(160, a) for a in (4.0, 8.0)}
    found = {a: uniform_random(plan, rng) for a, plan in plans.items()}
    population = Population(patterns=tuple((a, Pattern.of(found[a], plans[a])) for a in found))
    for a in found:
        np.testing.assert_array_equal(population(plans[a]), found[a])
    for acceleration, nearest in ((5.0, 4.0), (6.5, 8.0), (2.0, 4.0), (12.0, 8.0)):
        plan = make_plan(200, acceleration, 8)
        expected = Pattern.of(found[nearest], plans[nearest]).realise(plan)
        np.testing.assert_array_equal(population(plan), expected)
        assert valid(population(plan), plan)
