"""What a file is to training: the k-space that the pipeline makes of it, and what is refused."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gadgets.files.source import open_source, write_mrd
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.items import Acquisition, Frame
from gadgets.mrd.line_index import LOOPS
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.steps.accumulate import AccumulateFrame
from gadgets.steps.noise_adjust import NoiseAdjust
from gadgets.steps.readout import RemoveReadoutOversampling
from mnet.physics import fov
from mnet.physics.fourier import inverse_fourier
from mnet.physics.prewhiten import apply
from tests.gadgets.helpers.synthetic import Scanned, acquisition, changed, fft, noise, scanned
from tests.training.helpers import fake_fastmri as fake
from training.data.volume import MeasuredVolume, read_volume
from training.data.whitening import whitening


def frames(path: Path) -> list[Frame]:
    """Return what the pipeline makes of a file, in the order of slices of a volume."""
    source = open_source(path)
    gadgets = NoiseAdjust(), RemoveReadoutOversampling(), AccumulateFrame(allow_incomplete=True)
    out = run(gadgets, Scan(geometry=source.geometry), source.acquisitions)
    found = [item for item in out if isinstance(item, Frame)]
    return sorted(found, key=lambda frame: [getattr(frame.key, name) for name in LOOPS])


def hybrid(volume: MeasuredVolume, number: int) -> NDArray[np.complex64]:
    """Return what training learns from: whitened where the file has a noise scan."""
    matrix, source = whitening(volume)
    kspace = volume.hybrid(number)
    return (apply(matrix, kspace) if source == "noise scan" else kspace).numpy()


def assert_same(path: Path) -> MeasuredVolume:
    volume, expected = read_volume(path), frames(path)
    assert volume.n_slices == len(expected) > 0
    for number, frame in enumerate(expected):
        np.testing.assert_array_equal(volume.acquirable, frame.mask)
        kspace = hybrid(volume, number)
        assert kspace.shape == frame.kspace.shape
        # rounding of one single-precision transform
        np.testing.assert_allclose(kspace, frame.kspace, atol=1e-6 * np.abs(frame.kspace).max())
    return volume


def write(path: Path, one: Scanned, lines: Sequence[Acquisition]) -> Path:
    write_mrd(path, one.header, lines)
    return path


PARTIAL = scanned(n_ky=32, ky_min=2, ky_max=20, center=9)  # rows 9 to 27
AVERAGED = scanned(n_averages=2)
MANY = scanned(n_slices=2, n_contrasts=2, n_repetitions=2)
ODD = scanned(n_x=23, n_ky=31, oversampling=3)
ONE = scanned()


def with_noise() -> list[Acquisition]:
    """Two noise readouts of another dwell time; one that comes too late to whiten anything."""
    first, second = (noise(3, 200, seed=seed, sample_time_us=2.5) for seed in (1, 2))
    lines = ONE.lines()
    return [first, second, *lines[:5], noise(3, 200, seed=3), *lines[5:]]


def averaged() -> list[Acquisition]:
    """Both averages differ, and each lacks a line."""
    both = [AVERAGED.lines(), [_louder(line) for line in AVERAGED.lines(average=1)]]
    return [*both[0][:-1], *both[1][1:]]


def _louder(line: Acquisition) -> Acquisition:
    return acquisition(3 * line.data, **_fields(line))


def _fields(line: Acquisition) -> dict[str, Any]:
    return {name: line.header[name] for name in ("kspace_encode_step_1", "average", "slice")}


def many() -> list[Acquisition]:
    """Loops within each other, slices innermost, lines descending."""
    return [
        MANY.line(int(ky), slice_, contrast=contrast, repetition=repetition)
        for repetition in (1, 0)
        for ky in MANY.geometry.limit_counters[::-1]
        for contrast in (0, 1)
        for slice_ in (1, 0)
    ]


def asymmetric() -> list[Acquisition]:
    """Echoes that lack their beginning, every second one read backwards, with discards."""
    n = ONE.geometry.encoded[0]
    lines = []
    for number, line in enumerate(ONE.lines()):
        data, centre = line.data[:, 8:], n // 2 - 8
        fields = _fields(line) | {"discard_pre": 2, "discard_post": 1, "center_sample": centre}
        if number % 2:
            data = data[:, ::-1]
            fields |= {"flags": Flag.REVERSE, "center_sample": data.shape[1] - 1 - centre}
            fields |= {"discard_pre": 1, "discard_post": 2}
        lines.append(acquisition(data, **fields))
    return lines


def cropped_upstream() -> list[Acquisition]:
    """Lines without oversampling, with the discards that Gadgetron leaves in their headers."""
    lines = zip(ONE.lines(), np.moveaxis(fft(ONE.hybrid(), 1), 2, 0), strict=True)
    return [acquisition(kx, **_fields(line), discard_pre=6) for line, kx in lines]


def among_others() -> list[Acquisition]:
    """Lines between what is no part of the image."""
    odd = [
        changed(ONE.line(3), flags=flag)
        for flag in (Flag.CALIBRATION, Flag.NAVIGATION, Flag.PHASE_CORRECTION, Flag.DUMMY)
    ]
    odd += [changed(ONE.line(4), encoding_space_ref=1), acquisition(np.ones((3, 7)), flags=1 << 27)]
    lines = [changed(line, flags=Flag.CALIBRATION_AND_IMAGING) for line in ONE.lines()]
    doubled = _louder(ONE.line(9))
    return [*odd, *lines[:20], doubled, *lines[20:], ONE.line(40), ONE.line(65535)]


@pytest.mark.parametrize(
    ("one", "lines"),
    [
        (ONE, ONE.lines),
        (ODD, ODD.lines),
        (PARTIAL, PARTIAL.lines),
        (ONE, with_noise),
        (AVERAGED, averaged),
        (MANY, many),
        (ONE, asymmetric),
        (ONE, cropped_upstream),
        (ONE, among_others),
    ],
    ids=["full", "odd", "partial", "noise", "averages", "loops", "asymmetric", "cropped", "others"],
)
def test_a_slice_of_an_mrd_file_is_the_frame_of_the_pipeline(
    tmp_path: Path, one: Scanned, lines: Any
) -> None:
    volume = assert_same(write(tmp_path / "raw.h5", one, lines()))
    assert (volume.crop, volume.matrix) == (one.geometry.kept, one.geometry.recon[:2])


def test_slices_go_by_repetition_then_contrast_then_slice_whatever_the_order_of_lines(
    tmp_path: Path,
) -> None:
    volume = read_volume(write(tmp_path / "raw.h5", MANY, many()))
    headers = volume.file.headers()[[numbers[0] for numbers in volume.index.slices]]
    loops = headers[["repetition", "contrast", "slice"]].tolist()
    assert loops == list(itertools.product((0, 1), repeat=3))


@pytest.mark.parametrize("shape", [fake.KNEE, fake.WIDE, fake.TINY, (2, 1, 81, 48)])
@pytest.mark.parametrize("header", [True, False])
def test_a_slice_of_a_fastmri_file_is_the_frame_of_the_pipeline(
    tmp_path: Path, shape: tuple[int, int, int, int], header: bool
) -> None:
    fake.write(tmp_path / "a.h5", shape, xml="" if header else None)
    assert bool(assert_same(tmp_path / "a.h5").notes) == (not header)


def test_columns_that_the_file_s_mask_leaves_out_are_no_rows(tmp_path: Path) -> None:
    fake.write(tmp_path / "a.h5")
    rows = np.flatnonzero(fake.window(48))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["mask_acquired"] = np.isin(np.arange(48), rows[3:])
    assert np.flatnonzero(assert_same(tmp_path / "a.h5").acquirable).tolist() == rows[3:].tolist()


def test_real_scans_are_the_frames_of_the_pipeline(shared: Path) -> None:
    for path in sorted((shared / "data" / "raw").glob("*.h5")):
        assert assert_same(path).notes == ()


def test_of_a_doubled_line_the_first_is_taken(tmp_path: Path) -> None:
    """They are no averages: their headers say that they are the same."""
    again = [_louder(line) for line in ONE.lines()[3:9]]
    path = write(tmp_path / "raw.h5", ONE, [*ONE.lines()[:12], *again, *ONE.lines()[12:]])
    np.testing.assert_allclose(
        assert_same(path).hybrid(0).numpy(), ONE.hybrid(), atol=1e-5 * np.abs(ONE.hybrid()).max()
    )


def test_averages_that_the_header_does_not_announce_are_averaged(tmp_path: Path) -> None:
    averages = [*ONE.lines(), *(_louder(line) for line in ONE.lines(average=1))]
    path = write(tmp_path / "raw.h5", ONE, averages)
    kspace = assert_same(path).hybrid(0).numpy()
    np.testing.assert_allclose(kspace, 2 * ONE.hybrid(), atol=1e-5 * np.abs(kspace).max())


def test_lines_whose_oversampling_is_gone_keep_what_their_discards_name(tmp_path: Path) -> None:
    volume = read_volume(write(tmp_path / "raw.h5", ONE, cropped_upstream()))
    assert volume.kspace(0).shape == ONE.hybrid().shape
    np.testing.assert_allclose(
        volume.hybrid(0).numpy(), ONE.hybrid(), atol=1e-5 * np.abs(ONE.hybrid()).max()
    )


def test_noise_that_comes_after_a_line_whitens_nothing(tmp_path: Path) -> None:
    lines = ONE.lines()
    late = write(tmp_path / "late.h5", ONE, [lines[0], noise(3, 200), *lines[1:]])
    assert read_volume(late).noise_readouts() == []
    assert whitening(read_volume(late))[1] != "noise scan"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (acquisition(np.ones((2, 48)), slice=1), r"same number of coils .* got \[2, 3\]"),
        (acquisition(np.ones((3, 40)), scan_counter=9), r"acquisition 9 .* has 40 samples"),
        (acquisition(np.ones((3, 48)), slice=1), r"expected the same lines .*slice 1 has 1,"),
    ],
)
def test_lines_that_disagree_are_refused_before_any_is_read(
    tmp_path: Path, extra: Acquisition, message: str
) -> None:
    is_noise = extra.header["flags"] & np.uint64(Flag.NOISE)
    lines = [extra, *ONE.lines()] if is_noise else [*ONE.lines(), extra]
    path = write(tmp_path / "raw.h5", ONE, lines)
    with pytest.raises(ValueError, match=rf"raw\.h5: .*{message}"):
        read_volume(path)


def test_a_line_that_does_not_fit_the_matrix_is_named_with_its_file(tmp_path: Path) -> None:
    lines = [changed(line, center_sample=3) for line in ONE.lines(scan_counter=8)]
    path = write(tmp_path / "raw.h5", ONE, lines)
    with pytest.raises(ValueError, match=r"raw\.h5: acquisition 8 has 48 samples"):
        read_volume(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"<ismrmrdHeader>", "no XML"),
        (b"<ismrmrdHeader/>", "no encoding"),
        (fake.header(fake.TINY).replace(b"cartesian", b"radial"), "radial"),
    ],
)
def test_a_header_that_cannot_be_read_is_named_with_its_file(
    tmp_path: Path, header: bytes, message: str
) -> None:
    write_mrd(tmp_path / "raw.h5", header, ONE.lines())
    with pytest.raises(ValueError, match=rf"raw\.h5: .*{message}"):
        read_volume(tmp_path / "raw.h5")


@pytest.mark.parametrize("shape", [fake.KNEE, fake.WIDE, fake.TINY])
def test_every_shape_of_fastmri_gives_the_images_of_a_plain_transform(tmp_path, shape):
    data = fake.write(tmp_path / "a.h5", shape)
    volume = read_volume(tmp_path / "a.h5")
    assert (volume.n_slices, volume.n_coils) == shape[:2]
    truth = fake.cropped(fake.fft2(data[1].astype(complex), inverse=True), shape[2] // 2)
    image = inverse_fourier(volume.hybrid(1), dim=-1).numpy()
    assert np.abs(image - truth).max() < 1e-5 * np.abs(truth).max()


@pytest.mark.parametrize("shape", [fake.KNEE, fake.WIDE, fake.TINY])
def test_the_header_marks_the_columns_that_hold_anything(tmp_path, shape):
    data = fake.write(tmp_path / "a.h5", shape)
    volume = read_volume(tmp_path / "a.h5", need_header=True)
    np.testing.assert_array_equal(volume.acquirable, data.any(axis=(0, 1, 2)))
    assert volume.matrix == (shape[2] // 2,) * 2
    assert volume.crop == (shape[2] // 2, min(shape[3], shape[2] // 2))
    final = fov.to_recon_space(inverse_fourier(volume.hybrid(0), -1), volume.crop, volume.matrix)
    assert final.shape[-2:] == volume.matrix


def test_without_a_header_the_columns_that_hold_anything_are_taken_with_a_note(tmp_path, caplog):
    data = fake.write(tmp_path / "a.h5", xml=None)
    volume = read_volume(tmp_path / "a.h5")
    np.testing.assert_array_equal(volume.acquirable, fake.window(48))
    assert volume.hybrid(0).shape == data[0].shape
    assert "the first to the last that hold anything" in volume.notes[0]
    assert volume.notes[0] in caplog.text


def test_mrd_and_fastmri_files_of_one_scan_give_the_same_volume(tmp_path):
    data = fake.write(tmp_path / "a.h5")
    fake.write_mrd(tmp_path / "b.h5", data)
    a, b = read_volume(tmp_path / "a.h5"), read_volume(tmp_path / "b.h5")
    assert (a.n_slices, a.n_coils, a.crop, a.matrix) == (b.n_slices, b.n_coils, b.crop, b.matrix)
    np.testing.assert_array_equal(a.acquirable, b.acquirable)
    for number in range(3):
        torch.testing.assert_close(a.hybrid(number), b.hybrid(number))


def test_averages_of_an_mrd_file_are_averaged(tmp_path):
    data = fake.write(tmp_path / "a.h5")
    fake.write_mrd(tmp_path / "b.h5", data, averages=2)
    a, b = read_volume(tmp_path / "a.h5"), read_volume(tmp_path / "b.h5")
    torch.testing.assert_close(b.hybrid(2), 1.5 * a.hybrid(2))


def test_mrd_slices_that_disagree_in_their_lines_are_refused(tmp_path):
    row = int(np.flatnonzero(fake.window(48))[3])
    fake.write_mrd(tmp_path / "b.h5", fake.kspace(fake.TINY), skip={(1, row)})
    with pytest.raises(ValueError, match=r"b\.h5: expected the same lines.*slice 1 has 39.* 40"):
        read_volume(tmp_path / "b.h5")


def test_slices_that_lack_lines_of_the_others_are_refused(tmp_path):
    data = fake.kspace(fake.TINY)
    data[1, ..., 20] = 0
    data[2, 0, 5, 5] = np.nan
    fake.write(tmp_path / "a.h5", data=data)
    volume = read_volume(tmp_path / "a.h5")
    volume.hybrid(0)
    with pytest.raises(ValueError, match=r"a\.h5: slice 1: expected all 40 rows.*first row 20"):
        volume.hybrid(1)
    with pytest.raises(ValueError, match=r"a\.h5: slice 2: expected finite"):
        volume.hybrid(2)
    with pytest.raises(ValueError, match=r"a\.h5: slice 3, expected 0 to 2"):
        volume.hybrid(3)


@pytest.mark.parametrize("number", [-1, 3])
def test_a_missing_file_or_slice_is_an_error(tmp_path, number):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5"):
        read_volume(tmp_path / "nowhere.h5")
    fake.write(tmp_path / "a.h5")
    with pytest.raises(ValueError, match="expected 0 to 2"):
        read_volume(tmp_path / "a.h5").hybrid(number)


def test_one_coil_without_an_axis_for_it_is_read(tmp_path):
    data = fake.kspace((2, 1, 80, 48))[:, 0]
    fake.write(tmp_path / "a.h5", data=data, xml=fake.header((2, 1, 80, 48)))
    assert assert_same(tmp_path / "a.h5").hybrid(1).shape == (1, 40, 48)


def test_rows_of_zeros_at_the_edges_are_not_acquirable_and_a_note_says_so(tmp_path: Path) -> None:
    lines = ONE.lines()
    padded = [
        replace(line, data=line.data * (3 <= i < 30)) if not 3 <= i < 30 else line
        for i, line in enumerate(lines)
    ]
    volume = read_volume(write(tmp_path / "raw.h5", ONE, padded))
    assert np.flatnonzero(volume.acquirable).tolist() == list(range(3, 30))
    assert volume.notes == ("5 rows at the edges hold only zeros: not acquirable",)
    volume.hybrid(0)


def test_noise_of_other_coils_whitens_nothing_as_in_the_pipeline(tmp_path: Path) -> None:
    lines = [noise(2, 200), noise(3, 300), *ONE.lines()]
    assert assert_same(write(tmp_path / "raw.h5", ONE, lines)).index.noise.tolist() == [1]
