"""What a line's samples are in k-space; most of it is claimed in tests of the readout transform."""

import numpy as np
import pytest

from gadgets.errors import GadgetError
from gadgets.mrd.echo import centred, same_length
from gadgets.mrd.header_layouts import Flag
from tests.gadgets.helpers.synthetic import acquisition
from tests.gadgets.steps.test_readout import geometry, samples


@pytest.mark.parametrize("encoded", [48, 51])
def test_a_reversed_readout_measured_symmetrically_loses_only_its_unpaired_sample(
    encoded: int,
) -> None:
    kx = samples(encoded)  # sample i of the wire lies at k = centre - i
    line = centred(acquisition(kx, flags=Flag.REVERSE), geometry(encoded, 24))
    k = np.arange(encoded) - encoded // 2
    for i in range(encoded):
        at = encoded // 2 - i
        if at in k:
            np.testing.assert_array_equal(line[:, at + encoded // 2], kx[:, i])
    assert np.count_nonzero(line == 0) <= 2  # one sample of two coils


def test_a_cut_readout_is_refused_by_name() -> None:
    header = acquisition(samples(40), scan_counter=7, kspace_encode_step_1=3).header
    same_length(header, 40, 40)
    with pytest.raises(GadgetError, match=r"acquisition 7 \(ky 3\) has 40 samples, expected 48"):
        same_length(header, 40, 48)


@pytest.mark.parametrize("encoded", [48, 51])
@pytest.mark.parametrize("flags", [0, Flag.REVERSE])
def test_a_centre_of_zero_on_a_full_readout_was_never_set(encoded: int, flags: int) -> None:
    kx = samples(encoded)
    unset, middle = (
        centred(acquisition(kx, flags=flags, center_sample=centre), geometry(encoded, 24))
        for centre in (0, encoded // 2)
    )
    np.testing.assert_array_equal(unset, middle)


def test_a_centre_of_zero_on_half_a_readout_is_that_of_a_half_echo() -> None:
    kx = samples(24)
    line = centred(acquisition(kx, center_sample=0), geometry(48, 20))
    np.testing.assert_array_equal(line[:, 24:], kx)
    assert not line[:, :24].any()
