import math

import pytest
import torch
from torch import Tensor

from mnet.recon.conditions import LEAST, TYPICAL, conditions, effective_coils, noise_ratio
from tests.mnet.helpers.operator_checks import random_like


def bands(n_coils: int, n_x: int = 64, n_y: int = 64) -> Tensor:
    """Maps of coils each of which sees a band of y alone."""
    csm = torch.zeros(n_coils, n_x, n_y, dtype=torch.complex64)
    for coil, part in enumerate(torch.arange(n_y).chunk(n_coils)):
        csm[coil][:, part] = 1
    return csm


@pytest.mark.parametrize("n_coils", [1, 2, 4, 8])
def test_coils_that_see_a_part_each_count_one_each(n_coils):
    assert float(effective_coils(bands(n_coils))) == pytest.approx(n_coils, rel=1e-5)


def test_coils_that_see_the_same_count_as_one():
    csm = torch.full((6, 32, 32), 1 / math.sqrt(6), dtype=torch.complex64)
    assert float(effective_coils(csm)) == pytest.approx(1, rel=1e-5)


def test_maps_of_nothing_count_as_one_coil():
    assert float(effective_coils(torch.zeros(4, 16, 16, dtype=torch.complex64))) == 1


def test_the_noise_ratio_of_noise_alone_is_the_largest_there_is():
    # one coil, all lines: brightness is the noise itself, so the ratio is near 1, and held at MOST
    noise = random_like(torch.zeros(1, 64, 64, dtype=torch.complex64), 0)
    csm = torch.ones(1, 64, 64, dtype=torch.complex64)
    assert float(noise_ratio(noise, csm, torch.ones(64))) == 0.5


def test_the_noise_ratio_of_an_image_without_noise_is_the_least_there_is():
    kspace = torch.zeros(1, 64, 64, dtype=torch.complex64)
    kspace[:, :, 32] = 1
    csm = torch.ones(1, 64, 64, dtype=torch.complex64)
    assert float(noise_ratio(kspace, csm, torch.ones(64))) == pytest.approx(LEAST)


def test_conditions_have_no_unit_and_are_zero_where_scans_are_typical():
    kspace = random_like(torch.zeros(1, 4, 32, 48, dtype=torch.complex64), 1)
    csm = bands(4, 32, 48)[None]
    mask = (torch.arange(48) % 4 == 0).float()[None]
    told = conditions(kspace, csm, mask)
    torch.testing.assert_close(conditions(1e5 * kspace, csm, mask), told)
    expected = [math.log(0.5 / TYPICAL[0]), 0.0, math.log(4 / TYPICAL[2])]
    torch.testing.assert_close(told[0], torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_batch_is_told_what_its_scans_are_told_alone():
    kspace = random_like(torch.zeros(2, 3, 32, 40, dtype=torch.complex64), 2)
    kspace[1, :, :, 20] *= 50
    csm = bands(3, 32, 40)[None].repeat(2, 1, 1, 1)
    mask = torch.stack([torch.ones(40), (torch.arange(40) % 2 == 0).float()])
    told = conditions(kspace, csm, mask)
    assert torch.equal(told[1:], conditions(kspace[1:], csm[1:], mask[1:]))
    assert told[0, 1] < told[1, 1]
    assert told[0, 0] > told[1, 0]
