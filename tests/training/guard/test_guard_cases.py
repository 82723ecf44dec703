import numpy as np
import pytest
import torch

from mnet.physics.fourier import fourier, inverse_fourier
from mnet.sampler.guard import EMPTY, FOLDED, NOISE, PARTIAL, PHANTOM
from tests.training.helpers.generated import cohort, volumes
from training.data.corpus import draw
from training.guard.cases import CASES, case_of
from training.guard.looks import plans


@pytest.fixture(scope="module")
def scan():
    described = cohort(n=20, seed=8, share=1.0, reference=128, largest=160)
    drawn = (draw(volumes(), described, number) for number in range(described.n))
    return next(s for s in drawn if not case_of(s) and 2 <= len(s.kspace) <= 8)


@pytest.mark.parametrize("case", CASES)
def test_an_odd_scan_has_the_coils_of_the_ordinary_one_and_a_plan(scan, case):
    odd = CASES[case](scan, np.random.default_rng(3))
    assert odd.kspace.shape[:2] == scan.kspace.shape[:2]
    assert odd.kspace.shape[-1] == odd.acquirable.size
    assert odd.plan().acquirable.size == odd.acquirable.size
    assert not torch.equal(odd.kspace, scan.kspace)
    again = CASES[case](scan, np.random.default_rng(3))
    assert torch.equal(odd.kspace, again.kspace)


def test_noise_only_is_as_loud_as_the_noise_of_its_scan(scan):
    odd = CASES[NOISE](scan, np.random.default_rng(0))
    power = odd.kspace[..., torch.from_numpy(odd.acquirable)].abs().square().mean().sqrt()
    assert float(power) == pytest.approx(scan.noise, rel=0.02)  # of some ten thousand samples
    assert not CASES[EMPTY](scan, np.random.default_rng(0)).kspace.any()


def test_a_fold_over_keeps_the_signal_and_takes_a_smaller_field_of_view(scan):
    odd = CASES[FOLDED](scan, np.random.default_rng(1))
    assert odd.acquirable.size < scan.acquirable.size
    # what is folded is added, in every column: the sum over y of the images stays
    sums = [inverse_fourier(s.kspace, -1).sum(-1) for s in (scan, odd)]
    torch.testing.assert_close(*sums, rtol=1e-3, atol=1e-3 * float(sums[0].abs().max()))


def test_a_partial_echo_leaves_out_a_tenth_to_a_third_at_one_end(scan):
    for seed in range(4):
        odd = CASES[PARTIAL](scan, np.random.default_rng(seed))
        before, after = (fourier(s.kspace, -2).abs().square().sum((0, 2)) for s in (scan, odd))
        kept = (after / before > 0.5).float().mean()
        assert 0.6 < kept < 0.93
        n = after.numel() // 12
        assert min(after[:n].sum(), after[-n:].sum()) < 0.05 * max(
            after[:n].sum(), after[-n:].sum()
        )


def test_a_phantom_is_of_the_same_matrix_and_drawn_neither_folded_nor_cut(scan):
    odd = CASES[PHANTOM](scan, np.random.default_rng(2))
    assert odd.kspace.shape == scan.kspace.shape
    assert case_of(odd) == ""


@pytest.mark.slow
def test_a_scan_that_was_drawn_odd_is_known_as_such():
    described = cohort(n=60, seed=2, share=0.0)
    kinds = [case_of(draw(volumes(), described, number)) for number in range(60)]
    assert 0 < kinds.count(FOLDED) < 20
    assert 0 < kinds.count(PARTIAL) < 12
    assert kinds.count("") > 30


def test_a_scan_is_seen_under_its_own_plan_first_and_under_no_width_twice(scan):
    found = plans(scan, (scan.acceleration, 4.0, 8.0, 8.0), 5)
    widths = [int(plan.calibration.sum()) for plan in found]
    assert widths[0] == scan.plan().calibration.sum()
    assert sorted(set(widths)) == sorted(widths)
    assert 5 in widths
