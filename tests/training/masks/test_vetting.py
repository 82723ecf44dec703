import numpy as np
import pytest

from training.masks.vetting import vet


def test_the_set_holds_a_good_mask_for_every_kind_of_scan():
    rng = np.random.default_rng(0)
    losses = 1 + 0.3 * rng.random((60, 10))
    losses[:30, 4] = losses[30:, 7] = 0.9
    assert set(vet([losses], 2, 2)) == {4, 7}


def test_the_best_single_mask_comes_first():
    losses = np.full((20, 5), 1.0)
    losses[:, 3] = 0.9
    losses[:2, 4] = 0.6  # better on two scans, worse than the other by a ninth on the rest
    assert vet([losses], 2, 2) == [3, 4]


def test_few_measured_scans_weigh_as_much_as_many_simulated_ones():
    simulated, measured = np.ones((600, 4)), np.ones((4, 4))
    simulated[:, 2] = 0.98
    measured[:, 3] = 0.9
    assert vet([simulated, measured], 1, 1) == [3]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_masks_that_save_nothing_are_left_out(n):
    losses = np.ones((10, 6))
    losses[:, 0] = 0.9  # a known one is the best for all
    assert vet([losses], 2, n) == []
