import cmath

import pytest
import torch

from mnet.masks.line_plan import LinePlan
from mnet.recon.linear import zero_filled
from tests.training.helpers.real_scans import real_scan
from training.real.methods import Method, best, one, reconstruct
from training.real.scores import figures, fit, nrmse


def image(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(24, 20, dtype=torch.complex64, generator=generator)


def test_one_complex_scale_is_forgiven_and_nothing_else():
    truth, other = image(), image(1)
    assert nrmse(truth * 3 * cmath.exp(2j), truth) < 1e-6
    # an orthogonal error of a tenth of the norm: least squares leaves its sine
    other = other - truth * fit(truth, other)
    wrong = truth + 0.1 * other * truth.norm() / other.norm()
    assert nrmse(wrong, truth) == pytest.approx(0.1 / (1 + 0.01) ** 0.5, rel=1e-4)


def test_the_plain_figure_counts_scale_and_the_one_of_magnitudes_no_phase():
    truth = image()
    found = figures(1j * truth, truth, truth.abs())
    assert found["nrmse"] < 1e-6
    assert found["nrmse_magnitude"] < 1e-6
    assert found["nrmse_plain"] == pytest.approx(2**0.5, rel=1e-5)
    assert found["ssim"] == pytest.approx(1)


def test_methods_see_the_lines_of_the_mask_alone():
    scan = real_scan()
    seen = []

    def spy(kspace, csm, mask):
        seen.append(kspace)
        return kspace[0]

    mask = scan.plan.calibration
    reconstruct(spy, scan, mask)
    (kspace,) = seen
    rows = torch.from_numpy(mask)
    assert torch.equal(kspace[..., rows], scan.sample.kspace[..., rows])
    assert not kspace[..., ~rows].any()


def test_the_best_setting_of_a_method_is_taken():
    scan = real_scan()
    calls = {
        f"{weight:g}": lambda k, c, m, w=weight: scan.reference + w * image_like(scan)
        for weight in (0.5, 0.1, 0.9)
    }
    method = Method(name="peer", settings=tuple(calls.items()))
    assert best(method, scan, scan.plan.calibration).setting == "0.1"


def test_all_lines_give_the_reference_back():
    scan = real_scan()
    call = one("zero_filled", zero_filled)
    every = LinePlan.of(scan.sample.acquirable, 1.0).acquirable
    assert best(call, scan, every).nrmse < 1e-6


def image_like(scan):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(scan.reference.shape, dtype=torch.complex64, generator=generator)
