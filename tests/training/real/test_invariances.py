import numpy as np
import pytest
import torch

from mnet.masks.densities import from_density, power_law
from mnet.physics.fourier import inverse_fourier
from tests.training.helpers.real_scans import real_scan
from training.real import invariances
from training.real.invariances import PLAIN, TURNING, changes, mirror, mirror_rows
from training.real.methods import linear_methods, one


def family_mask(scan):
    return from_density(scan.plan, power_law(scan.plan, 1.0))


def test_nothing_of_this_matters_to_cg_sense():
    scan = real_scan()
    (cg_sense, _) = linear_methods()
    rows = changes(scan, family_mask(scan), [cg_sense])
    assert {row["transformation"] for row in rows} == set(PLAIN) | set(TURNING)
    worst = {row["transformation"]: abs(row["change"]) for row in rows}
    # a mirrored readout has its calibration region half a pixel off, and so other maps
    mirrored = [worst.pop(name) for name in ("flip along x", "conjugation")]
    assert max(mirrored) < 1e-3
    assert max(worst.values()) < 1e-5  # iterations in single precision end where they end


def test_a_method_that_prefers_a_phase_is_found_out():
    scan = real_scan()
    real_part = one("real", lambda k, c, m: (c.conj() * inverse_fourier(k, dim=-1)).sum(0).real)
    rows = changes(scan, family_mask(scan), [real_part])
    worst = {row["transformation"]: abs(row["change"]) for row in rows}
    assert worst["global phase"] > invariances.TARGET
    assert worst["scale 1e6"] < 1e-5


@pytest.mark.parametrize("n", [8, 9])
def test_a_mirrored_object_has_mirrored_k_space(n):
    generator = torch.Generator().manual_seed(0)
    kspace = torch.randn(2, 5, n, dtype=torch.complex64, generator=generator)
    image = inverse_fourier(kspace, dim=-1)
    assert torch.allclose(inverse_fourier(mirror(kspace, -1), dim=-1), mirror(image, -1), atol=1e-6)
    conjugate = TURNING["conjugation"](kspace)
    assert torch.allclose(inverse_fourier(conjugate, dim=-1), image.conj(), atol=1e-6)
    mask = np.zeros(n, dtype=bool)
    mask[n // 2 + 2] = True
    assert np.flatnonzero(mirror_rows(mask)).tolist() == [n // 2 - 2]


@pytest.mark.parametrize("n", [8, 9])
def test_a_linear_phase_shifts_the_object(n):
    generator = torch.Generator().manual_seed(0)
    kspace = torch.randn(2, 5, n, dtype=torch.complex64, generator=generator)
    shifted = inverse_fourier(invariances.shift_y(kspace, 3), dim=-1)
    assert torch.allclose(shifted, inverse_fourier(kspace, dim=-1).roll(3, -1), atol=1e-5)


def test_every_transformation_keeps_the_energy_up_to_its_scale():
    kspace = real_scan().sample.kspace
    for name, transform in (PLAIN | TURNING).items():
        scale = float(name.removeprefix("scale ")) if name.startswith("scale") else 1.0
        ratio = float(transform(kspace).abs().square().sum() / kspace.abs().square().sum())
        assert ratio == pytest.approx(scale**2, rel=1e-4), name
