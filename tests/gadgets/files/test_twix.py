import struct
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("twixtools")
from gadgets.errors import ConfigError, HeaderError, ProtocolError
from gadgets.files.convert import convert
from gadgets.files.source import Source, open_source
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.items import Image
from gadgets.pipeline.build import load, parse
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from tests.gadgets.helpers.fake_twix import PERSONAL, block, write
from tests.gadgets.helpers.synthetic import Array, crop, ifft

RNG = np.random.default_rng(2)


def image_of(source: Source) -> Array:
    """Reconstruct one fully sampled slice as Gadgetron does: (x, y)."""
    out = run(parse(load("default.xml")), Scan(geometry=source.geometry), source.acquisitions)
    (image,) = (item for item in out if isinstance(item, Image))
    return np.asarray(image.data)[0, 0].T


def rss(kspace: Array, n_x: int) -> Array:
    coils = crop(ifft(ifft(kspace.astype(complex), 1), 2), n_x, 1)
    return np.asarray(np.sqrt((np.abs(coils) ** 2).sum(0)))


@pytest.fixture
def gre(shared: Path) -> Path:
    return shared / "data/vendor/gre.dat"


def samples(path: Path) -> Array:
    """Cut (coils, kx, ky) out of the real file's bytes: 160 lines, two channels, 320 samples."""
    content = path.read_bytes()
    start = int(np.frombuffer(content, "<u8", 1, offset=16)[0])
    start += int(np.frombuffer(content, "<u4", 1, offset=start)[0])
    channel = [("head", "V32"), ("samples", "<c8", 320)]
    lines = np.frombuffer(content, [("head", "V192"), ("channels", channel, 2)], 160, offset=start)
    return lines["channels"]["samples"].transpose(1, 2, 0)


def test_a_real_file_s_image_is_the_direct_transform_of_its_bytes(
    gre: Path, tmp_path: Path
) -> None:
    said = convert(gre, tmp_path / "gre.h5")
    assert "Siemens twix" in said
    assert "160 acquisitions in 1 slices" in said
    expected = rss(samples(gre), 160)
    image = image_of(open_source(tmp_path / "gre.h5"))
    np.testing.assert_allclose(image, expected, atol=1e-5 * expected.max())
    assert image.max() > 5 * np.median(image[:16, :16]), "an object, and nothing in the corner"


def test_a_real_file_has_the_samples_of_its_published_conversion(gre: Path) -> None:
    kspace = np.stack([line.data for line in open_source(gre).acquisitions], axis=-1)
    with h5py.File(gre.parents[1] / "raw/phantom_2ch_siemens_gre.h5") as file:
        np.testing.assert_array_equal(kspace, file["kspace"][0])


def test_a_real_file_keeps_its_geometry(gre: Path) -> None:
    source = open_source(gre)
    geometry = source.geometry
    assert (geometry.encoded, geometry.recon) == ((320, 160, 1), (160, 160, 1))
    assert (geometry.encoded_fov, geometry.recon_fov) == ((400, 200, 4), (200, 200, 4))
    assert (geometry.ky_min, geometry.ky_max, geometry.center) == (0, 159, 80)
    assert (geometry.n_coils, geometry.tr_ms, geometry.measurement_id) == (2, 10, "358")
    header = source.acquisitions[80].header
    # sPosition and sNormal of the protocol, which are not what the directions are made of
    np.testing.assert_allclose(header["position"], [-2.5897, 53.9224, -53.9995], atol=1e-4)
    np.testing.assert_allclose(header["slice_dir"], [0, 0.0383878, 0.9992630], atol=1e-5)
    frame = np.stack([header["read_dir"], header["phase_dir"], header["slice_dir"]])
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(header["sample_time_us"], 11.6)
    assert (int(header["center_sample"]), int(header["kspace_encode_step_1"])) == (160, 80)


def test_nothing_of_the_person_or_the_site_leaves_a_real_file(gre: Path, tmp_path: Path) -> None:
    convert(gre, tmp_path / "gre.h5")
    written = (tmp_path / "gre.h5").read_bytes()
    for text in (b"xxxxxxx", b"6.0.663277", b"DZNE", b"Bonn", b"45385", b"20210622", b"Skyra"):
        assert text in gre.read_bytes()
        assert text not in written


def test_a_patient_in_the_file_is_not_in_the_output(tmp_path: Path) -> None:
    twix = write(tmp_path / "scan.dat", lines(), n_earlier=1)
    convert(twix, tmp_path / "scan.h5")
    written = (tmp_path / "scan.h5").read_bytes()
    for text in PERSONAL:
        assert text.encode() in twix.read_bytes()
        assert text.encode() not in written
        assert text.encode("utf-16-le") not in written


KSPACE = (RNG.normal(size=(2, 2, 24, 20)) + 1j * RNG.normal(size=(2, 2, 24, 20))) * 1e-3


def lines(counters: range = range(20), slice_: int = 0, **fields: Any) -> list[Any]:
    return [
        block(
            KSPACE[slice_, :, :, c],
            c,
            Sli=slice_,
            flags=["LASTSCANINSLICE"] if c == counters[-1] else [],
            **fields,
        )
        for c in counters
    ]


def test_partial_fourier_and_phase_oversampling_are_placed_by_the_lines_own_centre(
    tmp_path: Path,
) -> None:
    """Lines 0 to 16 with centre 7: the first three rows of the matrix were not measured."""
    blocks = [
        block(KSPACE[0, :, :, c + 3], c, centre=7, flags=["LASTSCANINSLICE"] if c == 16 else [])
        for c in range(17)
    ]
    source = open_source(write(tmp_path / "scan.dat", blocks))
    geometry = source.geometry
    assert (geometry.encoded, geometry.encoded_fov) == ((24, 20, 1), (480, 400, 4))
    assert (geometry.recon, geometry.recon_fov) == ((12, 16, 1), (240, 320, 4))
    assert (geometry.ky_min, geometry.ky_max, geometry.center) == (0, 16, 7)
    kspace = KSPACE[0].copy()
    kspace[..., :3] = 0
    expected = rss(kspace, 12)
    np.testing.assert_allclose(image_of(source), expected, atol=1e-5 * expected.max())


def test_counters_flags_and_places_of_every_line_are_kept(tmp_path: Path) -> None:
    noise = block(np.ones((2, 256)), flags=["NOISEADJSCAN"])
    first = lines(slice_=0, position=(1, 2, 3))
    second = lines(slice_=1, position=(4, 5, 6), Rep=1, Eco=0)
    calibration = block(KSPACE[0, :, :, 9], 9, flags=["PATREFSCAN"])
    both = block(KSPACE[0, :, :, 9], 9, Ave=1, flags=["PATREFSCAN", "PATREFANDIMASCAN", "REFLECT"])
    path = write(tmp_path / "scan.dat", [noise, calibration, *first, *second, both])
    source = open_source(path)
    headers = np.stack([line.header for line in source.acquisitions])
    assert headers["flags"][[0, 1, 2, -1]].tolist() == [
        Flag.NOISE,
        Flag.CALIBRATION,
        0,
        Flag.CALIBRATION | Flag.CALIBRATION_AND_IMAGING | Flag.REVERSE,
    ]
    assert np.flatnonzero(headers["flags"] == Flag.LAST_IN_SLICE).tolist() == [21, 41]
    assert headers["slice"][2:42].tolist() == [0] * 20 + [1] * 20
    assert headers["repetition"][[2, 41]].tolist() == [0, 1]
    assert headers["position"][[2, 41]].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert headers["sample_time_us"][[0, 1]].tolist() == [30, 5]
    geometry = source.geometry
    assert (geometry.n_slices, geometry.n_repetitions, geometry.n_averages) == (2, 2, 2)
    assert geometry.n_coils == 2
    np.testing.assert_array_equal(
        source.acquisitions[5].data, KSPACE[0, :, :, 3].astype(np.complex64)
    )


def test_the_quaternion_s_columns_are_phase_read_and_slice(tmp_path: Path) -> None:
    half = np.sqrt(0.5)
    turned = block(KSPACE[0, :, :, 0], quaternion=(half, 0, 0, half))  # x to y, about z
    (line,) = open_source(write(tmp_path / "scan.dat", [turned])).acquisitions
    np.testing.assert_allclose(line.header["phase_dir"], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(line.header["read_dir"], [-1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(line.header["slice_dir"], [0, 0, 1], atol=1e-6)


def test_the_last_measurement_is_taken(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "scan.dat", lines(), n_earlier=2))
    assert len(source.acquisitions) == 20
    np.testing.assert_array_equal(
        source.acquisitions[0].data, KSPACE[0, :, :, 0].astype(np.complex64)
    )


@pytest.mark.parametrize(
    ("protocol", "error", "word"),
    [
        ({"sKSpace__ucTrajectory": 2}, HeaderError, "not Cartesian"),
        ({"sKSpace__ucDimension": 8}, HeaderError, "3-D"),
        ({"sFastImaging__lEPIFactor": 5}, HeaderError, "EPI"),
        ({"sSliceAcceleration__lMultiBandFactor": 2}, HeaderError, "multiband"),
        ({"sKSpace__lBaseResolution": None}, ProtocolError, "lBaseResolution"),
        ({"sKSpace__lBaseResolution": "many"}, ProtocolError, "lBaseResolution.*many"),
    ],
)
def test_scans_that_cannot_be_converted_are_refused_by_name(
    tmp_path: Path, protocol: dict[str, Any], error: type[Exception], word: str
) -> None:
    path = write(tmp_path / "scan.dat", lines(), **protocol)
    with pytest.raises(error, match=word) as caught:
        open_source(path)
    assert "scan.dat" in str(caught.value)


def test_a_protocol_of_pulseq_says_3_d_and_the_lines_decide(tmp_path: Path) -> None:
    flat = write(tmp_path / "flat.dat", lines(), sKSpace__ucDimension=4)
    assert len(open_source(flat).acquisitions) == 20
    deep = [block(np.ones((2, 24)), ky, Par=ky % 2) for ky in range(20)]
    with pytest.raises(HeaderError, match="3-D encoding is not supported: 2 partitions"):
        open_source(write(tmp_path / "deep.dat", deep, sKSpace__ucDimension=4))


def test_a_file_without_image_lines_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.dat", [block(np.ones((2, 24)), flags=["NOISEADJSCAN"])])
    with pytest.raises(ProtocolError, match="no image lines among its 1 readouts"):
        open_source(path)


@pytest.mark.parametrize("size", [100, 5000, 10300, 20000])
def test_a_cut_file_is_refused(tmp_path: Path, size: int) -> None:
    whole = write(tmp_path / "whole.dat", lines()).read_bytes()
    assert size < len(whole)
    cut = tmp_path / "cut.dat"
    cut.write_bytes(whole[:size])
    with pytest.raises(ProtocolError, match=r"cut\.dat"):
        open_source(cut)


def test_files_of_syngo_vb_and_of_others_are_refused_by_name(tmp_path: Path) -> None:
    old, other = tmp_path / "old.dat", tmp_path / "other.dat"
    old.write_bytes(np.array([64, 1], "<u4").tobytes() + b"Config\0" + bytes(500))
    with pytest.raises(ProtocolError, match="syngo VB"):
        open_source(old)
    other.write_bytes(RNG.bytes(5000))
    with pytest.raises(ProtocolError, match=r"other\.dat"):
        open_source(other)


def test_a_damaged_protocol_is_no_crash(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.dat", lines()).read_bytes()
    damaged = tmp_path / "damaged.dat"
    damaged.write_bytes(whole.replace(b"MeasYaps", b"\0" * 8))
    with pytest.raises(ProtocolError, match=r"damaged\.dat is damaged; twixtools says: "):
        open_source(damaged)


def test_a_damaged_readout_is_not_left_out_in_silence(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "whole.dat", lines()).read_bytes())
    samples = KSPACE[0, :, :, 5].astype(np.complex64)[0].tobytes()
    size = 192 + 2 * (32 + len(samples))
    start = content.index(samples) - 32 - 192
    assert content[start + size + 48 : start + size + 50] == struct.pack("<H", 24)
    content[start + size + 48 : start + size + 50] = b"\xff\xff"  # samples of the next readout
    damaged = tmp_path / "damaged.dat"
    damaged.write_bytes(content)
    with pytest.raises(ProtocolError, match=r"damaged\.dat"):
        open_source(damaged)


def test_without_twixtools_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "scan.dat", lines())
    monkeypatch.setitem(sys.modules, "twixtools", None)
    with pytest.raises(ConfigError, match=r"mnet-gadgets\[twix\]"):
        open_source(path)
