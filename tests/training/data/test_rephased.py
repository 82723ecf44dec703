import numpy as np
import pytest
import torch

from mnet.physics import sense
from training.data import rephased as module
from training.data.corpus import Sample
from training.data.rephased import air, rephased, under_the_skin


def sample() -> Sample:
    x, y = torch.linspace(-1, 1, 64)[:, None], torch.linspace(-1, 1, 80)[None]
    disc = ((x**2 + y**2).sqrt() < 0.7).to(torch.complex64)
    csm = torch.full((2, 64, 80), 0.5**0.5, dtype=torch.complex64) * (disc != 0)
    kspace = sense.forward(disc[None], csm[None], torch.ones(1, 80))[0]
    return Sample(
        kspace=kspace,
        clean=kspace.clone(),
        csm=csm,
        acquirable=np.ones(80, dtype=bool),
        acceleration=4.0,
    )


def image(of: Sample) -> torch.Tensor:
    return sense.adjoint(of.kspace[None], of.csm[None], torch.ones(1, 80))[0]


def test_the_field_of_a_sphere_falls_with_the_third_power_and_twice_as_far_along_the_main_field(
    monkeypatch,
):
    # one sphere beside the middle of the plane, the main field in it: at distances much greater
    # than its height the phase along the field is -2 times that across it, and 1/8 twice as far
    class Drawn:
        def integers(self, *bounds):
            return 1

        def uniform(self, low, high, n=None):
            return np.zeros(n) if n else {0.08: 0.1, 0.3: 0.3}[low]

        def normal(self, mean, scale):
            return mean

        def choice(self, values):
            return 1

    phase = air((200, 200), Drawn()).angle()  # the main field is along x
    middle, near, far = 100, 60, 95

    def ratio(a, b):
        return float(a / b)

    along, across = phase[middle + near, middle], phase[middle, middle + near]
    assert ratio(along, across) == pytest.approx(-2, rel=0.02)
    assert ratio(along, phase[middle + far, middle]) == pytest.approx((far / near) ** 3, rel=0.05)


def test_voxels_keep_their_signal_but_where_the_phase_turns_within_them():
    for seed in range(5):
        signal = air((64, 80), np.random.default_rng(seed))
        turns = torch.angle(signal[1:] * signal[:-1].conj()).abs()
        assert float(signal.abs().max()) <= 1 + 1e-5
        assert float(signal.abs()[1:][turns < 0.1].min()) > 0.9


def test_the_skin_of_a_disc_gets_one_angle_and_its_inside_none():
    phase = under_the_skin(image(sample()).abs(), np.random.default_rng(0))
    x, y = torch.linspace(-1, 1, 64)[:, None], torch.linspace(-1, 1, 80)[None]
    radius = (x**2 + y**2).sqrt()
    assert float(phase[radius < 0.5].abs().max()) == 0
    ring = phase[(radius > 0.66) & (radius < 0.69)].abs()
    assert float(ring.median()) == pytest.approx(float(phase.abs().max()), rel=0.35)
    assert float(phase.abs().max()) > 0.3


def test_some_scans_get_another_phase_and_the_same_maps_and_object(monkeypatch):
    monkeypatch.setattr(module, "air", lambda shape, rng: torch.ones(shape) * 1j)
    before, found = sample(), []
    for seed in range(60):
        after = rephased(before, np.random.default_rng(seed))
        assert after.csm is before.csm
        torch.testing.assert_close(image(after).abs(), image(before).abs(), atol=1e-5, rtol=0)
        found.append(after is not before)
    # 60 draws of a share of 0.4: 3.8 standard deviations are 0.24
    assert abs(np.mean(found) - module.REPHASED) < 0.24
