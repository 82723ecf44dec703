from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gadgets.errors import GadgetError
from gadgets.files.noise_store import NoiseStore
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import Flag, image_key
from gadgets.mrd.items import Acquisition, Item, Mask
from gadgets.mrd.noise import measured
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.steps.noise_adjust import NoiseAdjust
from tests.gadgets.helpers.synthetic import acquisition, changed, noise, scanned

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
    mask = Mask(
        key=image_key(line.header), counters=np.arange(3), reason="", sent=False, enforced=False
    )
    scan = Scan(geometry=ONE.geometry)
    out = run((NoiseAdjust(),), scan, [mask, noise(3), mask, line])
    assert out[:2] == [mask, mask]
    assert not scan.counts
    assert not np.allclose(out[2].data, line.data)  # type: ignore[union-attr]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("n_coils", [2, 4])
def test_noise_of_other_coils_is_counted_and_the_rest_whitens(n_coils: int, known: bool) -> None:
    xml = ONE.header
    if not known:
        xml = xml.replace(b"<receiverChannels>3</receiverChannels>", b"")
    scan = Scan(geometry=Geometry.parse(xml))
    assert (scan.geometry.n_coils is None) != known
    out = run((NoiseAdjust(),), scan, [noise(n_coils), noise(3), *ONE.lines()])
    expected = run((NoiseAdjust(),), Scan(geometry=ONE.geometry), [noise(3), *ONE.lines()])
    for one, other in zip(out, expected, strict=True):
        np.testing.assert_array_equal(one.data, other.data)  # type: ignore[union-attr]
    assert scan.counts == {"readouts of other coils than the image's": 1}


def test_an_image_line_of_other_coils_than_the_first_is_a_clear_error() -> None:
    xml = ONE.header.replace(b"<receiverChannels>3</receiverChannels>", b"")
    scan = Scan(geometry=Geometry.parse(xml))
    first, *rest = ONE.lines()
    with pytest.raises(GadgetError, match="has 3 coils, expected 2"):
        adjust([noise(2), replace(first, data=first.data[:2]), *rest], scan)


def test_a_dead_coil_is_a_clear_error() -> None:
    readout = noise(3)
    data = readout.data.copy()
    data[1] = 0
    with pytest.raises(GadgetError, match=r"cannot whiten.*coil 1"):
        adjust([acquisition(data, flags=Flag.NOISE), *ONE.lines()])


def test_too_little_noise_is_a_clear_error() -> None:
    with pytest.raises(GadgetError, match=r"cannot whiten.*more samples"):
        adjust([noise(3, n_samples=3), *ONE.lines()])


def header(
    measurement_id: str, *, labels: str = "", dependency: str = "", bandwidth: float = 0.793
) -> Geometry:
    """Return the geometry of a scan of coils with these labels, one letter each."""
    named = "".join(
        f"<coilLabel><coilNumber>{i}</coilNumber><coilName>{label}</coilName></coilLabel>"
        for i, label in enumerate(labels)
    )
    depends = (
        "<measurementDependency><dependencyType>noise</dependencyType>"
        f"<measurementID>{dependency}</measurementID></measurementDependency>"
    )
    band = f"<relativeReceiverNoiseBandwidth>{bandwidth}</relativeReceiverNoiseBandwidth>"
    n_coils = len(labels) or 3
    xml = scanned(n_coils=n_coils, measurement_id=measurement_id).header.decode()
    xml = xml.replace("</receiverChannels>", "</receiverChannels>" + named + band)
    if dependency:
        xml = xml.replace("</patientPosition>", "</patientPosition>" + depends)
    return Geometry.parse(xml)


def measure(store: NoiseStore, labels: str = "ABC", **fields: float) -> Acquisition:
    """Run a noise measurement on its own under the id N, and return its readout."""
    readout = noise(len(labels) or 3, **fields)
    scan = Scan(geometry=header("N", labels=labels), noise=store)
    assert adjust([readout], scan) == []
    return readout


def test_a_noise_measurement_whitens_a_later_scan_as_the_stream_s_own_would(
    tmp_path: Path,
) -> None:
    store = NoiseStore(tmp_path)
    readout = measure(store)
    line = ONE.lines()[0]
    later = Scan(geometry=header("I", labels="ABC", dependency="N"), noise=store)
    (stored,) = adjust([line], later)
    (own,) = adjust([readout, line])
    np.testing.assert_array_equal(stored.data, own.data)
    assert not +later.counts


@pytest.mark.parametrize(("dwell", "dwell_noise"), [(10.0, 2.5), (1.0, 4.0)])
def test_stored_noise_is_scaled_for_dwell_time_and_the_later_scan_s_bandwidth(
    tmp_path: Path, dwell: float, dwell_noise: float
) -> None:
    store = NoiseStore(tmp_path)
    readout = measure(store, sample_time_us=dwell_noise)
    geometry = header("I", labels="ABC", dependency="N", bandwidth=0.5)
    line = changed(readout, flags=0, sample_time_us=dwell)
    (out,) = adjust([line], Scan(geometry=geometry, noise=store))
    expected = 2 * dwell / dwell_noise * 0.5
    np.testing.assert_allclose(covariance(out.data), expected * np.eye(3), atol=1e-3 * expected)


@pytest.mark.parametrize(("labels", "order"), [("CAB", [2, 0, 1]), ("CB", [2, 1])])
def test_coils_in_another_order_and_fewer_coils_are_matched_by_label(
    tmp_path: Path, labels: str, order: list[int]
) -> None:
    store = NoiseStore(tmp_path)
    readout = measure(store)
    line = acquisition(readout.data[order])
    geometry = header("I", labels=labels, dependency="N", bandwidth=1.0)
    (out,) = adjust([line], Scan(geometry=geometry, noise=store))
    np.testing.assert_allclose(covariance(out.data), 2 * np.eye(len(order)), atol=1e-3)


@pytest.mark.parametrize(
    ("labels", "dependency", "words"),
    [
        ("ABD", "N", "1 of the scan's 3 coil labels are not among the 3 of the stored noise"),
        ("", "N", "the header labels 0 of 3 coils"),
        ("ABC", "M", "not stored here"),
    ],
)
def test_noise_that_does_not_serve_leaves_the_lines_as_they_are_and_says_why(
    tmp_path: Path,
    labels: str,
    dependency: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = NoiseStore(tmp_path)
    measure(store)
    scan = Scan(geometry=header("I", labels=labels, dependency=dependency), noise=store)
    line = ONE.lines()[0]
    assert adjust([line], scan) == [line]
    assert scan.counts == {"scans without the noise that they refer to": 1}
    assert words in caplog.text


def test_where_stored_noise_does_not_serve_the_stream_s_own_readouts_do(tmp_path: Path) -> None:
    line, readout = ONE.lines()[0], noise(3)
    scan = Scan(geometry=header("I", labels="ABC", dependency="M"), noise=NoiseStore(tmp_path))
    (out,) = adjust([readout, line], scan)
    (own,) = adjust([readout, line])
    np.testing.assert_array_equal(out.data, own.data)


def test_stored_noise_goes_before_the_stream_s_own_as_in_gadgetron(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path)
    first = measure(store)
    line, other = ONE.lines()[0], noise(3, seed=11)
    scan = Scan(geometry=header("I", labels="ABC", dependency="N"), noise=store)
    (out,) = adjust([other, line], scan)
    (expected,) = adjust([first, line])
    np.testing.assert_array_equal(out.data, expected.data)
    assert scan.counts == {"noise readouts beside stored noise": 1}


def test_noise_within_a_scan_serves_later_scans_too(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path)
    line, readout = ONE.lines()[0], noise(3)
    (first,) = adjust([readout, line], Scan(geometry=header("N", labels="ABC"), noise=store))
    later = Scan(geometry=header("I", labels="ABC", dependency="N"), noise=store)
    (second,) = adjust([line], later)
    np.testing.assert_array_equal(first.data, second.data)


@pytest.mark.parametrize(("name", "labels"), [("N", ""), ("N", "AAB"), ("", "ABC")])
def test_noise_that_nobody_could_use_is_not_stored(tmp_path: Path, name: str, labels: str) -> None:
    scan = Scan(geometry=header(name, labels=labels), noise=NoiseStore(tmp_path))
    assert adjust([noise(3)], scan) == []
    assert not list(tmp_path.iterdir())


def test_a_noise_measurement_that_cannot_whiten_fails_at_once_and_is_not_stored(
    tmp_path: Path,
) -> None:
    data = noise(3).data.copy()
    data[1] = 0
    scan = Scan(geometry=header("N", labels="ABC"), noise=NoiseStore(tmp_path))
    with pytest.raises(GadgetError, match=r"cannot whiten.*coil 1"):
        adjust([acquisition(data, flags=Flag.NOISE)], scan)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_fails_a_noise_measurement_but_not_a_scan_that_has_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    scan = Scan(geometry=header("N", labels="ABC"), noise=NoiseStore(tmp_path / "file" / "noise"))
    with pytest.raises(GadgetError, match="noise cannot be stored"):
        adjust([noise(3)], scan)
    assert len(adjust([noise(3), ONE.lines()[0]], scan)) == 1
    assert scan.counts == {"noise measurements that could not be stored": 1}


def test_readouts_added_one_by_one_are_measured_as_all_of_them_at_once() -> None:
    readouts = [noise(3, n_samples=40 + seed, seed=seed) for seed in range(5)]
    found, dwell_us = measured(readouts)
    data = np.concatenate([readout.data for readout in readouts], axis=1)
    np.testing.assert_allclose(found, covariance(data), rtol=1e-5)
    assert dwell_us == float(readouts[0].header["sample_time_us"])
    with pytest.raises(GadgetError, match="it has no readout"):
        measured([])


def full_band() -> Geometry:
    system = b"</receiverChannels>"
    bandwidth = b"<relativeReceiverNoiseBandwidth>1.0</relativeReceiverNoiseBandwidth>"
    return Geometry.parse(ONE.header.replace(system, system + bandwidth))
