import numpy as np
import pytest
from synthetic import acquisition, changed, noise, scanned

from gadgets.errors import GadgetError
from gadgets.gadget import Scan, run
from gadgets.geometry import Geometry
from gadgets.items import Acquisition, Flag, Item, Mask, key_of
from gadgets.noise_adjust import NoiseAdjust

ONE = scanned(n_coils=3)


def adjust(items: list[Item], scan: Scan | None = None) -> list[Acquisition]:
    out = run((NoiseAdjust(),), scan or Scan(geometry=ONE.geometry), items)
    return [item for item in out if isinstance(item, Acquisition)]


def covariance(data: np.ndarray) -> np.ndarray:
    return data @ data.conj().T / (data.shape[1] - 1)


def test_whitened_noise_has_unit_covariance_in_real_and_imaginary_part() -> None:
    # equal dwell times and a receiver that lets all of the band through: Gadgetron's scale is
    # then the root of two
    scan = Scan(geometry=full_band())
    (out,) = adjust([noise(3), changed(noise(3), flags=0)], scan)
    np.testing.assert_allclose(covariance(out.data), 2 * np.eye(3), atol=1e-3)


def test_fresh_noise_of_the_same_coils_is_whitened_too() -> None:
    first, second = (noise(3, n_samples=20000, seed=5) for _ in range(2))
    rng = np.random.default_rng(9)
    white = rng.normal(size=(3, 20000)) + 1j * rng.normal(size=(3, 20000))
    mix = np.linalg.cholesky(covariance(first.data.astype(complex)))
    fresh = changed(acquisition((mix @ white / np.sqrt(2)).astype(np.complex64)), flags=0)
    (out,) = adjust([first, second, fresh], Scan(geometry=full_band()))
    np.testing.assert_allclose(covariance(out.data), 2 * np.eye(3), atol=0.06)


@pytest.mark.parametrize(("dwell", "dwell_noise"), [(5.0, 5.0), (10.0, 2.5), (1.0, 4.0)])
def test_the_scale_follows_the_dwell_times_and_the_bandwidth(
    dwell: float, dwell_noise: float
) -> None:
    readout = noise(3, sample_time_us=dwell_noise)
    line = changed(readout, flags=0, sample_time_us=dwell)
    (out,) = adjust([readout, line])
    expected = 2 * dwell / dwell_noise * 0.793
    np.testing.assert_allclose(covariance(out.data), expected * np.eye(3), atol=1e-3 * expected)


def test_without_dwell_times_noise_has_unit_power() -> None:
    readout = noise(3, sample_time_us=0)
    (out,) = adjust([readout, changed(readout, flags=0)])
    np.testing.assert_allclose(covariance(out.data), np.eye(3), atol=1e-3)


def test_a_scan_without_noise_readouts_passes_unchanged() -> None:
    lines = ONE.lines()
    out = adjust(list(lines))
    assert all(a is b for a, b in zip(out, lines, strict=True))


def test_noise_readouts_are_consumed_and_all_of_them_are_used() -> None:
    # two halves whose covariances differ: only both together whiten both
    a, b = noise(3, seed=1), noise(3, seed=2)
    both = changed(acquisition(np.concatenate([a.data, b.data], axis=1)), flags=0)
    (out,) = adjust([a, b, both], Scan(geometry=full_band()))
    np.testing.assert_allclose(covariance(out.data), 2 * np.eye(3), atol=1e-3)


def test_the_matrix_stays_that_of_the_first_line() -> None:
    scan = Scan(geometry=ONE.geometry)
    line = ONE.lines()[0]
    first, second = adjust([noise(3, seed=1), line, noise(3, seed=2), line], scan)
    np.testing.assert_array_equal(first.data, second.data)
    assert scan.counts == {"noise readouts after the first line": 1}


def test_items_other_than_acquisitions_pass_and_do_not_start_the_scan() -> None:
    line = ONE.lines()[0]
    mask = Mask(key=key_of(line.head), counters=np.arange(3), reason="", sent=False, enforced=False)
    scan = Scan(geometry=ONE.geometry)
    out = run((NoiseAdjust(),), scan, [mask, noise(3), mask, line])
    assert out[:2] == [mask, mask]
    assert not scan.counts
    assert not np.allclose(out[2].data, line.data)  # type: ignore[union-attr]


@pytest.mark.parametrize("n_coils", [2, 4])
def test_a_noise_scan_of_other_coils_is_a_clear_error(n_coils: int) -> None:
    with pytest.raises(GadgetError, match=f"has {n_coils} coils, expected 3"):
        adjust([noise(n_coils), *ONE.lines()])


def test_coils_are_those_of_the_first_line_where_the_header_says_nothing() -> None:
    xml = ONE.header.replace(b"<receiverChannels>3</receiverChannels>", b"")
    scan = Scan(geometry=Geometry.parse(xml))
    assert scan.geometry.n_coils is None
    with pytest.raises(GadgetError, match="has 3 coils, expected 2"):
        adjust([noise(2), *ONE.lines()], scan)


def test_a_dead_coil_is_a_clear_error() -> None:
    readout = noise(3)
    data = readout.data.copy()
    data[1] = 0
    with pytest.raises(GadgetError, match=r"cannot whiten.*coil 1"):
        adjust([acquisition(data, flags=Flag.NOISE), *ONE.lines()])


def test_too_little_noise_is_a_clear_error() -> None:
    with pytest.raises(GadgetError, match=r"cannot whiten.*more samples"):
        adjust([noise(3, n_samples=3), *ONE.lines()])


def full_band() -> Geometry:
    system = b"</receiverChannels>"
    bandwidth = b"<relativeReceiverNoiseBandwidth>1.0</relativeReceiverNoiseBandwidth>"
    return Geometry.parse(ONE.header.replace(system, system + bandwidth))
