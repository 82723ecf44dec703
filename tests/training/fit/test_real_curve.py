import pytest
import torch
from torch import nn

from mnet.physics import sense
from tests.training.helpers.fake_fastmri import TINY, write
from training.fit.real_curve import read_watched, real_curve


class Adjoint(nn.Module):
    """Reconstruct from all lines, whatever the mask, and off by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, kspace, csm, mask):
        return self.factor * sense.adjoint(kspace, csm, torch.ones_like(mask))


def test_the_curve_is_the_relative_error_of_the_middle_slice_by_file_and_acceleration(tmp_path):
    write(tmp_path / "a.h5", TINY)
    watched = read_watched([str(tmp_path / "a.h5")], (2.0, 3.0))
    curve = real_curve(Adjoint(1.25), watched)
    assert curve == {"a, 2x": pytest.approx(0.25), "a, 3x": pytest.approx(0.25)}


def test_a_scan_is_watched_with_the_budget_of_its_acceleration(tmp_path):
    write(tmp_path / "a.h5", TINY)
    (scan,) = read_watched([str(tmp_path / "a.h5")], (2.0,))
    assert scan.mask.sum() == scan.sample.plan().n_lines
