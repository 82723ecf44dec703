import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample

from gadgets.errors import GadgetError
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import ImageKey, image_key
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.image_attributes import meta_to_xml
from gadgets.mrd.items import Frame, Image, Item, Mask, PreScan
from gadgets.mrd.messages import message_buffers, read_message
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.steps.image_finish import FULL_SCALE, ImageFinish, to_recon_matrix
from tests.gadgets.helpers.synthetic import (
    Scanned,
    acquisition,
    coil_images,
    crop,
    fft,
    ifft,
    scanned,
)

with warnings.catch_warnings():  # importing ismrmrd changes the warning filters
    import ismrmrd

ONE = scanned(n_x=24, n_ky=32, n_slices=3)


def geometry(encoded: int, share: float, recon: int, n_x: int = 24, recon_x: int = 24) -> Geometry:
    """Along y: rows, part of the field of view that is imaged, pixels of the image."""
    return Geometry.parse(
        header_xml(
            encoded=(n_x, encoded, 1),
            encoded_fov=(240.0, 320.0, 5),
            recon=(recon_x, recon, 1),
            recon_fov=(240.0, 320.0 * share, 5),
            n_coils=2,
        )
    )


def frame(image: np.ndarray | None = None, slice_: int = 0, **meta: str) -> Frame:
    line = acquisition(
        np.zeros((3, 48)),
        kspace_encode_step_1=16,
        slice=slice_,
        contrast=1,
        repetition=2,
        measurement_uid=77,
        position=(1.5, -2.5, 3.5),
        patient_table_position=(7, 8, 9),
        acquisition_time_stamp=1234,
        physiology_time_stamp=(5, 6, 7),
    )
    if image is None:
        image = coil_images(24, 32, 1, slice_)[0]
    return Frame(
        key=image_key(line.header),
        header=line.header,
        kspace=np.zeros((3, 24, 32), np.complex64),
        mask=np.ones(32, bool),
        calibration=np.ones(32, bool),
        image=None if image.size == 0 else image.astype(np.complex64),
        meta={"method": "modl", "n_lines": "32", **meta},
    )


def finish(
    *items: Item, one: Scanned = ONE, scan: Scan | None = None, **properties: Any
) -> list[Image]:
    out = run((ImageFinish(**properties),), scan or Scan(geometry=one.geometry), items)
    assert all(isinstance(item, Image) for item in out)
    return out  # type: ignore[return-value]


def prescan(one: Scanned = ONE, n: int = 16, slice_: int = 0) -> PreScan:
    rows = np.arange(one.geometry.n_ky // 2 - n // 2, one.geometry.n_ky // 2 - n // 2 + n)
    lines = one.hybrid(slice_)[:, :, rows].astype(np.complex64)
    return PreScan(key=ImageKey(0, slice_, 0, 0, 0, 0), lines=lines, counters=rows)


def mask(counters: list[int], slice_: int = 0) -> Mask:
    return Mask(
        key=ImageKey(0, slice_, 0, 0, 0, 0),
        counters=np.array(counters),
        reason="predicted",
        sent=True,
        enforced=True,
        model="abc",
        seconds=0.0125,
    )


def band_limited(n: int, m: int, axis: int = 1) -> np.ndarray:
    """A complex image (24, n) without the Nyquist frequency of n or m rows."""
    rng = np.random.default_rng(n)
    low = min(n, m) - 3
    spectrum = rng.normal(size=(24, low)) + 1j * rng.normal(size=(24, low))
    before = n // 2 - low // 2
    padded = np.pad(spectrum, ((0, 0), (before, n - low - before)))
    return ifft(padded, 1).astype(np.complex64)


@pytest.mark.parametrize(("n", "m"), [(32, 64), (32, 45), (31, 50), (31, 63), (32, 33), (40, 24)])
def test_interpolation_is_the_sinc_resampling_of_scipy(n: int, m: int) -> None:
    image = band_limited(n, m)
    ours = to_recon_matrix(image, geometry(n, 1.0, m))
    # scipy keeps pixel 0 where it is, we keep pixel n // 2
    shifted = resample(np.fft.ifftshift(image, axes=1).astype(complex), m, axis=1)
    np.testing.assert_allclose(ours, np.fft.fftshift(shifted, axes=1), atol=1e-5)


@pytest.mark.parametrize("recon", [32, 48, 64, 65, 20])
def test_interpolation_keeps_the_intensity_of_what_is_smooth(recon: int) -> None:
    flat = np.full((24, 32), 3 + 4j, np.complex64)
    ours = to_recon_matrix(flat, geometry(32, 1.0, recon))
    np.testing.assert_allclose(ours, np.full((24, recon), 3 + 4j), atol=1e-5)


@pytest.mark.parametrize(("n", "m"), [(24, 48), (24, 17), (24, 24)])
def test_the_readout_is_interpolated_alike(n: int, m: int) -> None:
    image = band_limited(32, 32)
    ours = to_recon_matrix(image, geometry(32, 1.0, 32, n, m))
    smooth = crop(fft(image, 0), m, 0) if m < n else fft(image, 0)
    pad = m // 2 - n // 2
    padded = smooth if m <= n else np.pad(smooth, ((pad, m - n - pad), (0, 0)))
    np.testing.assert_allclose(ours, ifft(padded, 0) * np.sqrt(m / n), atol=1e-5)


@pytest.mark.parametrize(("encoded", "kept"), [(32, 24), (33, 24), (32, 21), (33, 21), (32, 32)])
def test_the_field_of_view_is_cropped_about_the_pixel_of_the_centre(
    encoded: int, kept: int
) -> None:
    image = np.zeros((24, encoded), np.complex64)
    image[5, encoded // 2] = 1
    image[6, encoded // 2 - 3] = 2
    ours = to_recon_matrix(image, geometry(encoded, kept / encoded, kept))
    assert ours.shape == (24, kept)
    assert ours[5, kept // 2] == 1
    assert ours[6, kept // 2 - 3] == 2


def test_the_field_of_view_is_cropped_before_pixels_are_interpolated() -> None:
    flat = np.ones((24, 32), np.complex64)
    flat[:, :8] = flat[:, 24:] = 100  # outside of the image's field of view
    ours = to_recon_matrix(flat, geometry(32, 0.5, 64))
    np.testing.assert_allclose(ours, np.ones((24, 64)), atol=1e-5)


def test_a_smaller_matrix_keeps_the_field_of_view() -> None:
    y = np.arange(32) - 16
    wave = np.broadcast_to(np.exp(2j * np.pi * 3 * y / 32), (24, 32)).astype(np.complex64)
    ours = to_recon_matrix(wave, geometry(32, 1.0, 16))
    z = np.arange(16) - 8
    np.testing.assert_allclose(ours[0], np.exp(2j * np.pi * 3 * z / 16), atol=1e-5)


def test_the_image_lies_in_the_message_as_mrd_wants_it() -> None:
    picture = coil_images(24, 32, 1)[0]
    (image,) = finish(frame(picture))
    assert image.data.shape == (1, 1, 32, 24)  # channels, z, y, x
    assert image.data.dtype == np.float32
    np.testing.assert_allclose(image.data[0, 0].T, np.abs(picture), atol=1e-5)
    assert image.header["matrix_size"].tolist() == [24, 32, 1]
    assert image.header["channels"] == 1
    assert image.header["data_type"] == 5
    assert image.header["image_type"] == 1


@pytest.mark.parametrize(
    "properties", [{}, {"dtype": "ushort"}, {"output": "complex"}, {"emit_mask_image": False}]
)
def test_every_kind_of_image_can_be_written_and_read(properties: dict[str, Any]) -> None:
    for image in finish(prescan(), mask([1, 2, 16]), frame(), **properties):
        wire = b"".join(bytes(part) for part in message_buffers(image))
        parts = iter([wire])
        buffer = next(parts)
        position = 0

        def read(n: int, buffer: bytes = buffer) -> bytes:
            nonlocal position
            position += n
            return buffer[position - n : position]

        back = read_message(read)
        assert isinstance(back, Image)
        np.testing.assert_array_equal(back.data, image.data)
        assert dict(back.meta) == dict(image.meta)


def test_geometry_and_counters_are_those_of_the_central_line() -> None:
    given = frame(slice_=2)
    (image,) = finish(given)
    for name in (
        "position",
        "read_dir",
        "phase_dir",
        "slice_dir",
        "patient_table_position",
        "physiology_time_stamp",
        "acquisition_time_stamp",
        "measurement_uid",
        "slice",
        "contrast",
        "repetition",
    ):
        np.testing.assert_array_equal(image.header[name], given.header[name])
    assert image.header["field_of_view"].tolist() == [24, 32, 5]
    assert image.header["version"] == 1


def test_indices_count_from_one_within_each_series() -> None:
    items = [mask([16]), frame(), frame(incomplete="3/4"), frame(), mask([15]), frame()]
    found = [
        (int(i.header["image_series_index"]), int(i.header["image_index"])) for i in finish(*items)
    ]
    assert found == [(20, 1), (1, 1), (10, 1), (1, 2), (20, 2), (1, 3)]


def test_attributes_are_spelt_in_both_ways() -> None:
    (image,) = finish(frame(incomplete="3/4"), dtype="ushort")
    for ours, theirs in [
        ("DataRole", "GADGETRON_DataRole"),
        ("ImageComments", "GADGETRON_ImageComment"),
        ("SeriesDescription", "GADGETRON_SeqDescription"),
        ("ImageProcessingHistory", "GADGETRON_ImageProcessingHistory"),
    ]:
        assert image.meta[ours] == image.meta[theirs]
    assert image.meta["DataRole"] == "Image"
    assert image.meta["Keep_image_geometry"] == "1"
    assert image.meta["mnet_n_lines"] == "32"


def test_directions_are_three_values_each_as_open_recon_reads_them() -> None:
    one = frame()
    header = one.header.copy()
    header["read_dir"], header["phase_dir"] = (0, 0.6, -0.8), (1, 0, 0)
    (image,) = finish(replace(one, header=header))
    theirs = ismrmrd.Meta.deserialize(meta_to_xml(image.meta).decode())
    assert [float(x) for x in theirs["ImageRowDir"]] == pytest.approx([0, 0.6, -0.8])
    assert [float(x) for x in theirs["ImageColumnDir"]] == [1, 0, 0]


def test_the_window_is_one_of_rescaled_values_and_gadgetron_s_one_of_stored_values() -> None:
    picture = coil_images(24, 32, 1)[0] * 1e-6
    (image,) = finish(frame(picture), dtype="ushort")
    meta = {name: float(value) for name, value in image.meta.items() if "Window" in name}
    brightest = float(np.abs(picture).max())  # it fixed the scale
    np.testing.assert_allclose(meta["WindowCenter"], brightest / 2, rtol=1e-5)
    np.testing.assert_allclose(meta["WindowWidth"], brightest, rtol=1e-5)
    assert (meta["GADGETRON_WindowCenter"], meta["GADGETRON_WindowWidth"]) == (2048, 4095)
    ratio = float(image.meta["GADGETRON_ScaleRatio"]) * float(image.meta["RescaleSlope"])
    assert abs(ratio - 1) < 1e-6
    (unscaled,) = finish(frame(picture))
    assert unscaled.meta["WindowWidth"] == image.meta["WindowWidth"]
    assert unscaled.meta["WindowWidth"] == unscaled.meta["GADGETRON_WindowWidth"]
    assert "RescaleSlope" not in unscaled.meta


@pytest.mark.parametrize(
    ("meta", "comment"),
    [
        ({}, None),
        ({"fallback": "false", "reason": "predicted"}, None),
        ({"fallback": "true", "reason": "too late"}, "fallback mask: too late"),
        ({"incomplete": "91/92"}, "INCOMPLETE 91/92"),
        (
            {"incomplete": "91/92", "fallback": "true", "reason": "too late"},
            "INCOMPLETE 91/92; fallback mask: too late",
        ),
    ],
)
def test_what_is_wrong_with_an_image_stands_in_its_comment(
    meta: dict[str, str], comment: str | None
) -> None:
    (image,) = finish(frame(**meta))
    assert image.meta.get("ImageComments") == comment
    assert int(image.header["image_series_index"]) == (10 if "incomplete" in meta else 1)


def test_complex_images_keep_their_phase_and_scale() -> None:
    picture = coil_images(24, 32, 1)[0] * 1e-6
    (image,) = finish(frame(picture), output="complex")
    assert image.data.dtype == np.complex64
    assert (int(image.header["data_type"]), int(image.header["image_type"])) == (7, 5)
    np.testing.assert_allclose(image.data[0, 0].T, picture, atol=1e-12)


def test_ushort_images_have_one_scale_per_scan_that_the_first_calibration_fixes() -> None:
    picture = coil_images(24, 32, 1)[0]
    images = finish(
        prescan(slice_=0),
        frame(picture),
        prescan(slice_=1),
        frame(picture / 3, 1),
        dtype="ushort",
    )
    slopes = {image.meta["RescaleSlope"] for image in images}
    assert len(slopes) == 1
    slope = float(slopes.pop())
    for image, factor in zip(images, (1, 3), strict=True):
        assert image.data.dtype == np.uint16
        assert int(image.header["data_type"]) == 1
        expected = np.abs(picture) / factor
        np.testing.assert_allclose(image.data[0, 0].T * slope, expected, atol=0.51 * slope)


@pytest.mark.parametrize("n", [8, 16, 32])
def test_the_brightest_pixels_come_near_full_scale_whatever_the_calibration_s_length(
    n: int,
) -> None:
    combined = np.sqrt((np.abs(ifft(ONE.hybrid(), 2)) ** 2).sum(0))
    (image,) = finish(prescan(n=n), frame(combined), dtype="ushort")
    assert 0.75 * FULL_SCALE < image.data.max() < 1.5 * FULL_SCALE


def test_without_a_calibration_the_first_image_fixes_the_scale() -> None:
    picture = coil_images(24, 32, 1)[0]
    first, second = finish(frame(picture), frame(2 * picture), dtype="ushort")
    assert first.data.max() == FULL_SCALE
    assert second.data.max() == 2 * FULL_SCALE


def test_saturated_pixels_are_counted_and_do_not_wrap() -> None:
    scan = Scan(geometry=ONE.geometry)
    picture = np.ones((24, 32))
    bright = picture.copy()
    bright[:2, 0] = 100
    _, image = finish(frame(picture), frame(bright), dtype="ushort", scan=scan)
    assert scan.counts["saturated pixels"] == 2
    assert (image.data[0, 0, 0, :2] == 65535).all()
    assert (image.data[0, 0, 1:] == FULL_SCALE).all()


@pytest.mark.parametrize("dtype", ["float", "ushort"])
def test_phase_is_in_radians_whatever_stores_it(dtype: str) -> None:
    picture = coil_images(24, 32, 1)[0] * 1e-6
    (image,) = finish(frame(picture), output="phase", dtype=dtype)
    assert image.data.dtype == {"float": np.float32, "ushort": np.uint16}[dtype]
    assert int(image.header["image_type"]) == 2
    slope, intercept = (
        float(image.meta.get(f"Rescale{name}", default))
        for name, default in (("Slope", 1), ("Intercept", 0))
    )
    radians = image.data[0, 0].T * slope + intercept
    turned = np.angle(np.exp(1j * radians) * np.conj(picture))[picture != 0]
    assert np.abs(turned).max() < (1e-5 if dtype == "float" else 0.51 * slope)
    assert image.data.max() < 4096
    assert float(image.meta["WindowCenter"]) == 0
    assert abs(float(image.meta["WindowWidth"]) - 2 * np.pi) < 1e-6


def test_further_kinds_of_image_have_series_of_their_own() -> None:
    picture = coil_images(24, 32, 1)[0]
    images = finish(
        frame(picture), frame(picture, incomplete="3/4"), output="magnitude phase complex"
    )
    series = [int(i.header["image_series_index"]) for i in images]
    assert series == [1, 2, 3, 10, 11, 12]
    assert [int(i.header["image_type"]) for i in images] == [1, 2, 5] * 2
    assert [int(i.header["image_index"]) for i in images] == [1] * 6
    magnitude, phase, complex_ = (i.data for i in images[:3])
    np.testing.assert_allclose(magnitude * np.exp(1j * phase), complex_, atol=1e-6)
    assert len({i.meta["SeriesDescription"] for i in images}) == 3


@pytest.mark.parametrize("output", ["", "real", "magnitude,phase", "phase phase"])
def test_unknown_kinds_of_image_are_refused_by_name(output: str) -> None:
    with pytest.raises(ValueError, match="expected one or more of magnitude, phase, complex"):
        ImageFinish(output=output)


def test_a_field_of_view_that_ends_within_a_pixel_is_given_as_what_is_shown() -> None:
    cut = geometry(32, 0.77, 32)  # 24.64 pixels, of which 25 are kept
    (image,) = finish(frame(), scan=Scan(geometry=cut))
    np.testing.assert_allclose(image.header["field_of_view"], [240, 250, 5], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float", "ushort"])
def test_an_empty_image_stays_empty(dtype: str) -> None:
    (image,) = finish(frame(np.zeros((24, 32))), dtype=dtype)
    assert not image.data.any()


def test_a_mask_becomes_an_image_of_its_own_series() -> None:
    one = scanned(n_ky=17, ky_min=0, ky_max=12, center=5)
    (image,) = finish(mask([0, 4, 5, 12], slice_=2), one=one)
    assert image.data.shape == (1, 1, 1, 17)
    assert np.flatnonzero(image.data).tolist() == [3, 7, 8, 15]  # rows: counter + 8 - 5
    assert image.header["matrix_size"].tolist() == [17, 1, 1]
    assert int(image.header["slice"]) == 2
    assert image.meta["DataRole"] == image.meta["GADGETRON_DataRole"] == "SamplingMask"
    assert image.meta["mnet_n_lines"] == "4"
    assert image.meta["mnet_mask_ms"] == "12.50"


def test_masks_and_calibrations_can_be_left_out() -> None:
    assert not finish(mask([16]), prescan(), emit_mask_image=False)


def test_a_frame_without_image_is_an_error() -> None:
    with pytest.raises(GadgetError, match="put Reconstruct first"):
        finish(frame(np.zeros(0)))
