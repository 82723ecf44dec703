import logging
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gadgets.errors import HeaderError, ProtocolError
from gadgets.files.hdf5_process import read_apart
from gadgets.files.source import (
    Source,
    open_kspace,
    open_source,
    read_images,
    write_images,
    write_mrd,
)
from gadgets.mrd.header_layouts import ACQUISITION_HEADER, IMAGE_HEADER, WAVEFORM_HEADER, Flag
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.item_bytes import PIXEL_TYPES
from gadgets.mrd.items import Acquisition, Image, Waveform

with warnings.catch_warnings():  # importing ismrmrd changes the warning filters
    import ismrmrd

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
HEADER = header_xml(
    encoded=(8, 6, 1),
    encoded_fov=(8.0, 6.0, 1.0),
    recon=(4, 6, 1),
    recon_fov=(4.0, 6.0, 1.0),
    n_coils=2,
)


def lines(n: int = 5, dimensions: int = 0) -> list[Acquisition]:
    rng = np.random.default_rng(3)
    result = []
    for i in range(n):
        header = np.zeros(1, ACQUISITION_HEADER)[0]
        header["version"], header["number_of_samples"], header["active_channels"] = 1, 8, 2
        header["kspace_encode_step_1"], header["user"] = i, range(8)
        header["trajectory_dimensions"], header["user_float"] = dimensions, np.arange(8) + i
        data = rng.standard_normal((2, 8)) + 1j * rng.standard_normal((2, 8))
        trajectory = rng.standard_normal((8, dimensions)).astype("f4") if dimensions else None
        result.append(
            Acquisition(header=header, data=data.astype(np.complex64), trajectory=trajectory)
        )
    return result


def waves() -> list[Waveform]:
    header = np.zeros(1, WAVEFORM_HEADER)[0]
    header["channels"], header["number_of_samples"], header["time_stamp"] = 2, 3, 99
    return [Waveform(header=header, data=np.arange(6, dtype=np.uint32).reshape(2, 3))]


def image(series: int = 0, data_type: int = 5, **meta: str) -> Image:
    header = np.zeros(1, IMAGE_HEADER)[0]
    header["data_type"], header["matrix_size"], header["channels"] = data_type, (4, 3, 1), 1
    header["image_series_index"], header["version"] = series, 1
    data = (np.arange(12).reshape(1, 1, 3, 4) * (1 + 2j if data_type > 6 else 1)).astype(
        PIXEL_TYPES[data_type]
    )
    return Image(header=header, data=data, meta=meta)


def fastmri(path: Path, kspace: Any, header: bytes | None = None, **extra: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if header is not None:
            file["ismrmrd_header"] = header
        for name, value in extra.items():
            file[name] = value
    return path


def padded_kspace(n_slices: int = 2, n_coils: int = 3) -> np.ndarray:
    """Samples name their own place; zero where a fastMRI scan acquired nothing."""
    kspace = np.zeros((n_slices, n_coils, 8, 12), np.complex64)
    s, c, x, y = np.indices(kspace.shape)
    kspace[..., 2:10] = (s + 10 * c + 100 * x + 1j * (1 + y))[..., 2:10]
    return kspace


def padded_header(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "encoded": (8, 12, 1),
        "encoded_fov": (16.0, 12.0, 5.0),
        "recon": (4, 4, 1),
        "recon_fov": (8.0, 8.0, 5.0),
        "n_coils": 3,
        "n_slices": 2,
        "ky_max": 7,
        "center": 4,
    }
    return header_xml(**(values | changes))


def regridded(source: Source) -> np.ndarray:
    """Put readouts back by Gadgetron's placement rule."""
    geometry = source.geometry
    grid = np.zeros(
        (geometry.n_slices * geometry.n_repetitions, geometry.n_coils, *geometry.encoded[:2]),
        np.complex64,
    )
    for line in source.acquisitions:
        column = (
            int(line.header["kspace_encode_step_1"]) + geometry.encoded[1] // 2 - geometry.center
        )
        grid[line.header["slice"] + line.header["repetition"], :, :, column] = line.data
    return grid


@pytest.mark.parametrize("dimensions", [0, 2])
def test_what_is_written_reads_back_and_ismrmrd_reads_the_same(
    tmp_path: Path, dimensions: int
) -> None:
    path = tmp_path / "raw.h5"
    items = lines(1100, dimensions)  # several blocks
    write_mrd(path, HEADER + b"\0", iter(items), waves())
    source = open_source(path)
    assert source.kind == "MRD HDF5"
    assert source.header == HEADER
    assert len(source.acquisitions) == len(items)
    assert source.waveforms[0].header == waves()[0].header
    np.testing.assert_array_equal(source.waveforms[0].data, waves()[0].data)
    with ismrmrd.Dataset(str(path), mode="r") as dataset:
        assert dataset.read_xml_header() == HEADER
        np.testing.assert_array_equal(dataset.read_waveform(0).data, waves()[0].data)
        for i in (0, 511, 512, 1099):
            theirs, ours = dataset.read_acquisition(i), source.acquisitions[i]
            assert ours.header.tobytes() == items[i].header.tobytes() == bytes(theirs.getHead())
            np.testing.assert_array_equal(theirs.data, items[i].data)
            np.testing.assert_array_equal(ours.data, items[i].data)
            if items[i].trajectory is not None:
                np.testing.assert_array_equal(theirs.traj, items[i].trajectory)
                np.testing.assert_array_equal(ours.trajectory, items[i].trajectory)


@pytest.mark.skipif(shutil.which(GENERATOR) is None, reason="Debian's ismrmrd-tools are not there")
def test_files_of_the_c_tools_read_and_ours_satisfy_the_c_tools(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.h5", tmp_path / "ours.h5"
    subprocess.run(
        [GENERATOR, "-m", "32", "-c", "4", "-r", "2", "-o", theirs], check=True, capture_output=True
    )
    source = open_source(theirs)
    assert len(source.acquisitions) == 64
    assert source.geometry.encoded == (64, 32, 1)
    assert source.geometry.n_x == 32
    write_mrd(ours, source.header, source.acquisitions)
    for path in (theirs, ours):
        subprocess.run(["ismrmrd_recon_cartesian_2d", path], check=True, capture_output=True)
    with h5py.File(theirs) as a, h5py.File(ours) as b:
        np.testing.assert_array_equal(a["dataset/cpp/data"][()], b["dataset/cpp/data"][()])


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def failing() -> Any:
        yield lines(1)[0]
        raise RuntimeError("source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        write_mrd(tmp_path / "raw.h5", HEADER, failing())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data_type", PIXEL_TYPES)
def test_images_read_back_by_series_with_their_attributes(tmp_path: Path, data_type: int) -> None:
    path = tmp_path / "out.h5"
    images = [image(0, data_type, Comment="é <1>"), image(3, 1), image(0, data_type)]
    write_images(path, images, "group")
    write_images(path, images, "group")  # replaces
    again = read_images(path)
    assert [int(i.header["image_series_index"]) for i in again] == [0, 0, 3]
    for got, expected in zip(again, [images[0], images[2], images[1]], strict=True):
        assert got.meta == expected.meta
        assert got.data.dtype == expected.data.dtype
        np.testing.assert_array_equal(got.data, expected.data)
    if data_type != 4:  # ismrmrd 1.15 takes 32-bit integers for 64-bit ones
        with ismrmrd.Dataset(str(path), "group", mode="r") as dataset:
            theirs = dataset.read_image("image_0", 0)
        np.testing.assert_array_equal(theirs.data, images[0].data)
        assert theirs.meta["Comment"] == "é <1>"


def test_images_of_one_series_must_have_one_shape(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="series 2"):
        write_images(tmp_path / "out.h5", [image(2), image(2, 1)], "group")


def test_images_that_the_stock_client_stored_are_read(shared: Path) -> None:
    path = shared / "captures/a10d_accelerated_grappa/out.h5"
    if not path.exists():
        pytest.skip(f"no {path}")
    images = read_images(path)
    assert [(int(i.header["image_series_index"]), i.data.dtype.str) for i in images] == [
        (1, "<u2"),
        (1, "<u2"),
    ]
    assert any(i.meta for i in images)


def test_fastmri_readouts_carry_counters_and_leave_out_the_padding(tmp_path: Path) -> None:
    path = fastmri(tmp_path / "f.h5", padded_kspace(), padded_header())
    source = open_source(path)
    assert source.kind == "fastMRI HDF5"
    assert source.header == padded_header()
    assert len(source.acquisitions) == 16
    headers = np.stack([line.header for line in source.acquisitions])
    assert headers["kspace_encode_step_1"].tolist() == [*range(8)] * 2
    assert headers["slice"].tolist() == [0] * 8 + [1] * 8
    assert headers["scan_counter"].tolist() == [*range(16)]
    assert np.flatnonzero(headers["flags"] & Flag.FIRST_IN_SLICE).tolist() == [0, 8]
    assert np.flatnonzero(headers["flags"] & Flag.LAST_IN_SLICE).tolist() == [7, 15]
    assert np.flatnonzero(headers["flags"] & Flag.LAST_IN_MEASUREMENT).tolist() == [15]
    assert headers["position"][[0, 8], 2].tolist() == [-2.5, 2.5]
    assert set(headers["center_sample"]) == {4}
    assert headers["channel_mask"][0, 0] == 0b111
    np.testing.assert_array_equal(regridded(source), padded_kspace())


def test_a_mask_leaves_out_what_was_not_acquired(tmp_path: Path) -> None:
    mask = np.ones(12, np.uint8)
    mask[[3, 5]] = 0
    source = open_source(fastmri(tmp_path / "f.h5", padded_kspace(), padded_header(), mask=mask))
    counters = [int(line.header["kspace_encode_step_1"]) for line in source.acquisitions[:6]]
    assert counters == [0, 2, 4, 5, 6, 7]
    whole = np.ones((8, 12), np.uint8)
    path = fastmri(tmp_path / "g.h5", padded_kspace(), padded_header(), mask_acquired=whole)
    assert len(open_source(path).acquisitions) == 16


@pytest.mark.parametrize(
    "header",
    [None, b"broken", padded_header(encoded=(8, 10, 1)), padded_header(recon_fov=(99, 1, 1))],
)
def test_without_a_usable_header_one_is_made_and_the_log_says_so(
    tmp_path: Path, header: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        source = open_source(fastmri(tmp_path / "f.h5", padded_kspace(), header))
    assert "1 mm per sample" in caplog.text
    geometry = source.geometry
    assert (geometry.encoded, geometry.n_x, geometry.n_slices) == ((8, 12, 1), 8, 2)
    assert (geometry.n_coils, geometry.ky_max, geometry.center) == (3, 7, 4)
    np.testing.assert_array_equal(regridded(source), padded_kspace())


def test_a_header_that_miscounts_coils_keeps_its_geometry(tmp_path: Path) -> None:
    path = fastmri(tmp_path / "f.h5", padded_kspace(1), padded_header(n_coils=9))
    geometry = open_source(path).geometry
    assert (geometry.n_coils, geometry.n_slices) == (3, 1)
    assert (geometry.n_x, geometry.recon_fov, geometry.center) == (4, (8.0, 8.0, 5.0), 4)


def test_the_first_axis_can_be_the_repetition_and_one_coil_needs_no_axis(tmp_path: Path) -> None:
    path = fastmri(tmp_path / "f.h5", padded_kspace()[:, 0])
    source = open_source(path, first_axis="repetition")
    assert (source.geometry.n_slices, source.geometry.n_repetitions) == (1, 2)
    assert [int(line.header["repetition"]) for line in source.acquisitions] == [0] * 8 + [1] * 8
    assert {float(line.header["position"][2]) for line in source.acquisitions} == {0.0}
    np.testing.assert_array_equal(regridded(source)[:, 0], padded_kspace()[:, 0])


def test_files_that_are_neither_or_damaged_are_refused_by_name(tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    with pytest.raises(ProtocolError, match=r"text\.h5"):
        open_source(text)
    with pytest.raises(FileNotFoundError, match=r"absent\.h5"):
        open_source(tmp_path / "absent.h5")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["volume"] = 1
    with pytest.raises(ProtocolError, match=r"other\.h5: expected MRD.*volume"):
        open_source(other)
    whole = tmp_path / "whole.h5"
    write_mrd(whole, HEADER, lines())
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ProtocolError, match=r"cut\.h5"):
        open_source(cut)
    with pytest.raises(ProtocolError, match="float64"):
        open_source(fastmri(tmp_path / "real.h5", np.ones((1, 2, 3, 4))))
    with pytest.raises(ProtocolError, match=r"\[1, 1, 2, 3, 4\]"):
        open_source(fastmri(tmp_path / "axes.h5", np.ones((1, 1, 2, 3, 4), complex)))
    with pytest.raises(ProtocolError, match="zeros"):
        open_source(fastmri(tmp_path / "zero.h5", np.zeros((1, 2, 3, 4), complex)))
    off_centre = np.zeros((1, 2, 8, 12), complex)
    off_centre[..., 7:] = 1
    with pytest.raises(ProtocolError, match=r"the centre, column 6, .*got 7 to 11"):
        open_source(fastmri(tmp_path / "off.h5", off_centre))


@pytest.mark.parametrize("signature", [b"\x89HDF", b"TREE", b"HEAP", b"SNOD", b"GCOL"])
def test_files_with_a_damaged_structure_are_refused_by_name(
    tmp_path: Path, signature: bytes
) -> None:
    path = tmp_path / "raw.h5"
    write_mrd(path, HEADER, lines())
    whole = path.read_bytes()
    assert signature in whole
    path.write_bytes(whole.replace(signature, b"????"))
    with pytest.raises(ProtocolError, match=r"raw\.h5 cannot be read as HDF5"):
        open_source(path)


def test_a_row_that_contradicts_its_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "raw.h5"
    write_mrd(path, HEADER, lines())
    with h5py.File(path, "a") as file:
        row = file["dataset/data"][2]
        row["data"] = row["data"][:-2]
        file["dataset/data"][2] = row
    with pytest.raises(ProtocolError, match=r"raw\.h5: acquisition 2: the header says 2 x 8"):
        open_source(path)


def test_lines_are_read_by_their_numbers_as_they_are_all_together(tmp_path: Path) -> None:
    mrd, numbers = tmp_path / "raw.h5", np.array([0, 3, 511, 512, 1000])
    write_mrd(mrd, HEADER, lines(1100, 2))
    arrays = fastmri(tmp_path / "f.h5", padded_kspace(), padded_header())
    for path, some in ((mrd, numbers), (arrays, np.array([1, 7, 8, 15])), (mrd, numbers[:0])):
        source, file = open_source(path), open_kspace(path)
        assert (file.kind, file.header, file.subject) == (source.kind, source.header, path.stem)
        expected = np.stack([line.header for line in source.acquisitions])
        np.testing.assert_array_equal(file.headers(), expected)
        for number, line in zip(some, file.lines(some), strict=True):
            whole = source.acquisitions[number]
            assert line.header == whole.header
            np.testing.assert_array_equal(line.data, whole.data)
            np.testing.assert_array_equal(line.trajectory, whole.trajectory)


def test_of_a_fastmri_file_only_the_slices_asked_for_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open_kspace(fastmri(tmp_path / "f.h5", padded_kspace(4), padded_header(n_slices=4)))
    read = []

    def noted(path: Path, task: str, **arguments: Any) -> Any:
        answer, arrays = read_apart(path, task, **arguments)
        read.append((arguments["places"], len(arrays)))
        return answer, arrays

    monkeypatch.setattr("gadgets.files.fastmri.read_apart", noted)
    assert len(file.lines(np.arange(8, 24))) == 16
    assert read == [([1, 2], 2)]


def test_rows_with_an_axis_more_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "raw.h5"
    write_mrd(path, HEADER, lines(6))
    with h5py.File(path, "a") as file:
        rows = file["dataset/data"][()]
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=rows[:, None], dtype=rows.dtype)
    (third,) = open_kspace(path).lines(np.array([3]))
    np.testing.assert_array_equal(third.data, lines(6)[3].data)
    assert len(open_source(path).acquisitions) == open_kspace(path).headers().size == 6
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=rows.reshape(3, 2), dtype=rows.dtype)
    with pytest.raises(ProtocolError, match=r"raw\.h5: .*one row per line, got \(3, 2\)"):
        open_source(path)


def test_the_subject_is_fastmri_s_pseudonym_where_there_is_one(tmp_path: Path) -> None:
    path = fastmri(tmp_path / "f.h5", padded_kspace(), padded_header())
    with h5py.File(path, "a") as file:
        file.attrs["patient_id"] = "0123abcd"
    assert open_kspace(path).subject == "0123abcd"
    assert b"0123abcd" not in open_source(path).header


def test_what_was_assumed_of_a_fastmri_file_is_told(tmp_path: Path) -> None:
    whole = fastmri(tmp_path / "f.h5", padded_kspace(), padded_header())
    assert open_kspace(whole).assumed == ()
    (note,) = open_kspace(fastmri(tmp_path / "g.h5", padded_kspace())).assumed
    assert note.startswith("no usable header, expected /ismrmrd_header, got none: assuming 1 mm")
    other = padded_header(encoded=(8, 10, 1), center=5)
    (note,) = open_kspace(fastmri(tmp_path / "h.h5", padded_kspace(), other)).assumed
    assert "expected an encoded matrix as kspace, 8 x 12, got 8 x 10" in note


def test_a_file_with_a_header_that_is_refused_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "raw.h5"
    write_mrd(path, b"<ismrmrdHeader/>", lines())
    source = open_source(path)
    assert len(source.acquisitions) == 5
    with pytest.raises(HeaderError, match="encoding"):
        _ = source.geometry


@pytest.mark.parametrize(
    ("name", "n_x", "axis"),
    [
        ("brain_t2_4ch_gpunufft", 256, "slice"),
        ("brain_t2_4ch_agile_os", 256, "slice"),
        ("phantom_16ch_cloudmr", 96, "slice"),
        ("phantom_2ch_siemens_gre", 160, "slice"),
        ("phantom_2ch_siemens_gre_2rep", 128, "repetition"),
        ("brain_t1_sag_1ch_larson", 256, "slice"),
    ],
)
def test_real_files_survive_the_way_to_mrd_and_give_their_stored_image(
    shared: Path, tmp_path: Path, name: str, n_x: int, axis: Any
) -> None:
    path = shared / f"data/raw/{name}.h5"
    source = open_source(path, first_axis=axis)
    assert source.geometry.n_x == n_x
    converted = tmp_path / "raw.h5"
    write_mrd(converted, source.header, source.acquisitions)
    kspace = regridded(open_source(converted))
    with h5py.File(path) as file:
        np.testing.assert_array_equal(kspace, file["kspace"][()])
        stored = file["reconstruction_rss"][()]
    axes = (-2, -1)
    coils = np.fft.fftshift(
        np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), axes=axes, norm="ortho"), axes=axes
    )
    rss = np.sqrt((np.abs(coils) ** 2).sum(1))
    np.testing.assert_allclose(rss, stored, rtol=1e-3, atol=1e-3 * stored.max())
