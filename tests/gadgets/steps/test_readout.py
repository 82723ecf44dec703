from typing import Any

import numpy as np
import pytest

from gadgets.errors import GadgetError
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.items import Acquisition
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.steps.readout import RemoveReadoutOversampling, to_hybrid
from tests.gadgets.helpers.synthetic import acquisition, crop, fft, ifft, scanned

SIZES = [(48, 24), (50, 25), (27, 27), (45, 15), (64, 33), (24, 24)]  # encoded, after cropping


def geometry(encoded: int, n_x: int) -> Geometry:
    # the field of view of the image is n_x pixels of the encoded grid
    return Geometry.parse(
        header_xml(
            encoded=(encoded, 8, 1),
            encoded_fov=(encoded, 8, 5),
            recon=(n_x, 8, 1),
            recon_fov=(n_x, 8, 5),
            n_coils=2,
        )
    )


def samples(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(2, n)) + 1j * rng.normal(size=(2, n))).astype(np.complex64)


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(("encoded", "n_x"), SIZES)
def test_a_full_echo_is_transformed_and_cropped_about_the_centre(encoded: int, n_x: int) -> None:
    kx = samples(encoded)
    line = to_hybrid(acquisition(kx), geometry(encoded, n_x))
    assert line.hybrid
    assert line.data.dtype == np.complex64
    close(line.data, crop(ifft(kx, 1), n_x, 1))


@pytest.mark.parametrize(("encoded", "n_x"), SIZES)
def test_a_reversed_readout_is_the_same_line(encoded: int, n_x: int) -> None:
    kx, centre = samples(encoded), encoded // 2
    mirrored = acquisition(kx[:, ::-1], flags=Flag.REVERSE, center_sample=encoded - 1 - centre)
    close(to_hybrid(mirrored, geometry(encoded, n_x)).data, crop(ifft(kx, 1), n_x, 1))


@pytest.mark.parametrize(("encoded", "n_x"), SIZES)
@pytest.mark.parametrize("missing", [1, 5, 9])
def test_an_asymmetric_echo_is_zero_filled_on_its_short_side(
    encoded: int, n_x: int, missing: int
) -> None:
    kx = samples(encoded)
    line = acquisition(kx[:, missing:], center_sample=encoded // 2 - missing)
    filled = kx.copy()
    filled[:, :missing] = 0
    close(to_hybrid(line, geometry(encoded, n_x)).data, crop(ifft(filled, 1), n_x, 1))


def test_an_echo_that_ends_early_is_zero_filled_at_its_end() -> None:
    kx = samples(48)
    filled = kx.copy()
    filled[:, 40:] = 0
    line = acquisition(kx[:, :40], center_sample=24)
    close(to_hybrid(line, geometry(48, 24)).data, crop(ifft(filled, 1), 24, 1))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("pre", "post"), [(3, 0), (0, 4), (3, 4)])
def test_discarded_samples_are_left_out(pre: int, post: int, reverse: bool) -> None:
    kx = samples(48)
    junk = np.full((2, 10), 99, np.complex64)
    wire = np.concatenate([junk[:, :pre], kx, junk[:, :post]], axis=1)
    header: dict[str, Any] = {"center_sample": pre + 24, "discard_pre": pre, "discard_post": post}
    if reverse:  # time runs the other way: what is discarded first was measured last
        wire = wire[:, ::-1]
        header = {"center_sample": wire.shape[1] - 1 - (pre + 24), "flags": Flag.REVERSE}
        header |= {"discard_pre": post, "discard_post": pre}
    close(to_hybrid(acquisition(wire, **header), geometry(48, 24)).data, crop(ifft(kx, 1), 24, 1))


def test_padding_that_an_upstream_node_declared_as_discarded_is_left_out() -> None:
    kx = samples(48)
    kx[:, :8] = 0
    line = acquisition(kx, discard_pre=8, center_sample=24)
    close(to_hybrid(line, geometry(48, 24)).data, crop(ifft(kx, 1), 24, 1))


def test_padding_into_which_the_crop_upstream_has_spread_signal_is_kept() -> None:
    kx = samples(48)
    kx[:, :16] = 0
    cropped = crop(ifft(kx, 1), 24, 1)
    line = acquisition(fft(cropped, 1), discard_pre=8, center_sample=12)
    close(to_hybrid(line, geometry(48, 24)).data, cropped)


@pytest.mark.parametrize("centre", [48, 60, 65535])
def test_a_centre_beyond_the_samples_means_the_middle(centre: int) -> None:
    kx = samples(48)
    line = acquisition(kx, center_sample=centre)
    close(to_hybrid(line, geometry(48, 24)).data, crop(ifft(kx, 1), 24, 1))


@pytest.mark.parametrize("n_x", [24, 25])
def test_oversampling_removed_upstream_is_not_removed_again(n_x: int) -> None:
    kx = samples(n_x)
    close(to_hybrid(acquisition(kx), geometry(2 * n_x, n_x)).data, ifft(kx, 1))


def test_an_asymmetric_echo_without_oversampling_is_filled_to_the_image() -> None:
    kx = samples(24)
    filled = kx.copy()
    filled[:, :4] = 0
    line = acquisition(kx[:, 4:], center_sample=8)
    close(to_hybrid(line, geometry(48, 24)).data, ifft(filled, 1))


def test_a_line_is_transformed_once() -> None:
    gadget = RemoveReadoutOversampling()
    scan = Scan(geometry=geometry(48, 24))
    (once,) = run((gadget,), scan, [acquisition(samples(48))])
    (twice,) = run((gadget, gadget), scan, [acquisition(samples(48))])
    assert isinstance(once, Acquisition)
    assert isinstance(twice, Acquisition)
    np.testing.assert_array_equal(once.data, twice.data)


@pytest.mark.parametrize(
    "fields",
    [
        {"center_sample": 1},
        {"center_sample": 47},
        {"discard_pre": 48},
        {"discard_pre": 30, "discard_post": 30},
        {"discard_post": 60},
        {"discard_post": 65535},
    ],
)
def test_a_readout_that_does_not_fit_is_refused(fields: dict[str, int]) -> None:
    line = acquisition(samples(48), scan_counter=17, **fields)
    with pytest.raises(GadgetError, match=r"acquisition 17 has 48 samples"):
        to_hybrid(line, geometry(48, 24))


def test_a_readout_longer_than_the_matrix_is_refused() -> None:
    with pytest.raises(GadgetError, match=r"52 samples .* do not fit the encoded matrix of 48"):
        to_hybrid(acquisition(samples(52)), geometry(48, 24))


@pytest.mark.parametrize(
    "fields",
    [
        {"flags": Flag.NAVIGATION},
        {"flags": Flag.PHASE_CORRECTION},
        {"flags": Flag.NOISE},
        {"flags": Flag.DUMMY | Flag.CALIBRATION},
        {"encoding_space_ref": 1},
    ],
)
def test_readouts_of_no_image_need_not_fit_and_pass_as_they_came(fields: dict[str, int]) -> None:
    odd = acquisition(samples(100), center_sample=3, **fields)
    assert run((RemoveReadoutOversampling(),), Scan(geometry=geometry(48, 24)), [odd]) == [odd]


@pytest.mark.parametrize(
    "flags",
    [
        Flag.CALIBRATION,
        Flag.CALIBRATION_AND_IMAGING,
        Flag.CALIBRATION | Flag.CALIBRATION_AND_IMAGING,
    ],
)
def test_calibration_lines_are_transformed(flags: int) -> None:
    line = acquisition(samples(48), flags=flags)
    (out,) = run((RemoveReadoutOversampling(),), Scan(geometry=geometry(48, 24)), [line])
    assert isinstance(out, Acquisition)
    assert out.hybrid


def test_cropping_loses_nothing_of_an_object_inside_the_field_of_view() -> None:
    one = scanned(n_x=24, n_ky=32)
    lines = [to_hybrid(line, one.geometry).data for line in one.lines()]
    close(np.stack(lines, axis=-1), one.hybrid())
    full = ifft(one.kspace[0], 1)
    np.testing.assert_allclose(np.linalg.norm(np.stack(lines)), np.linalg.norm(full), rtol=1e-5)
