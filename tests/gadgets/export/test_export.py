"""Do exported files put the features of the phantom where they are, and are they valid?

pydicom and nibabel read them back; places follow from DICOM PS3.3 C.7.6.2.1.1 and NIfTI's sform.
"""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.affines import apply_affine

from gadgets.cli import main
from gadgets.errors import ConfigError, HeaderError
from gadgets.export.dicom import Identity, write_dicom
from gadgets.export.nifti import write_nifti
from gadgets.files.source import write_images
from gadgets.host.child_host import Address
from gadgets.mrd.header_layouts import IMAGE_HEADER
from gadgets.mrd.items import Image
from tests.gadgets.helpers.oriented_phantom import (
    AMPLITUDES,
    ENCODINGS,
    MATRIX,
    N_SLICES,
    PLACES,
    PLANES,
    TOLERANCE,
    Array,
    Slices,
    images,
    peaks,
)


def worst_mm(volume: Array, to_patient: Array, expected: Array) -> float:
    """Return how far the worst feature is from its place; `to_patient` is of (x, y, slice)."""
    found, heights = peaks(volume)
    # a feature halfway between voxels has two that are equal as integers
    new = [i for i, at in enumerate(found) if not (np.abs(found[:i] - at).max(axis=1) < 0.5).any()]
    found, heights = found[new], heights[new]
    assert len(found) == len(PLACES)
    assert np.abs(heights / heights[0] - AMPLITUDES).max() < 0.02
    places = apply_affine(to_patient, found)
    return float(np.linalg.norm(places - expected, axis=1).max())


def values(dataset: pydicom.Dataset) -> Array:
    """Return what the stored values (y, x) stand for."""
    (mapping,) = dataset.RealWorldValueMappingSequence
    stored = dataset.pixel_array.astype(float)
    return stored * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept


def dicom_volume(folder: Path) -> tuple[Array, Array]:
    """Read a folder with pydicom: values (x, y, slice), and the affine to LPS by the standard."""
    read = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    one = read[0]
    row, column = (
        np.array(one.ImageOrientationPatient[:3]),
        np.array(one.ImageOrientationPatient[3:]),
    )
    read.sort(key=lambda d: float(np.dot(d.ImagePositionPatient, np.cross(row, column))))
    first, last = (np.array(d.ImagePositionPatient, float) for d in (read[0], read[-1]))
    affine = np.eye(4)
    affine[:3, 0] = row * float(one.PixelSpacing[1])
    affine[:3, 1] = column * float(one.PixelSpacing[0])
    affine[:3, 2], affine[:3, 3] = (last - first) / (len(read) - 1), first
    return np.stack([values(d).T for d in read], axis=-1), affine


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("plane", PLANES)
def test_landmarks_lie_at_their_patient_coordinates_in_both_formats(
    plane: str, encoding: str, address: Address, tmp_path: Path
) -> None:
    stack = images(address, Slices.of(plane, encoding))
    write_dicom(tmp_path / "dicom", stack)
    assert worst_mm(*dicom_volume(tmp_path / "dicom"), PLACES) < TOLERANCE
    (path,) = write_nifti(tmp_path / "volume.nii.gz", stack)
    volume = nibabel.load(path)
    in_ras = PLACES * (-1, -1, 1)
    assert worst_mm(np.asarray(volume.dataobj, float), volume.affine, in_ras) < TOLERANCE
    assert volume.shape == (*MATRIX, N_SLICES)
    assert (int(volume.header["qform_code"]), int(volume.header["sform_code"])) == (1, 1)
    np.testing.assert_allclose(volume.header.get_qform(), volume.affine, atol=1e-3)


def image(slice_: int = 0, repetition: int = 0, **changes: object) -> Image:
    header = np.zeros(1, IMAGE_HEADER)[0]
    header["version"], header["data_type"], header["image_type"] = 1, 5, 1
    header["matrix_size"], header["channels"] = (6, 5, 1), 1
    header["field_of_view"] = (120, 150, 4)
    header["read_dir"], header["phase_dir"], header["slice_dir"] = np.eye(3)
    header["position"] = (1, 2, 3 + 4 * slice_)
    header["slice"], header["repetition"] = slice_, repetition
    header["image_index"], header["image_series_index"] = 1 + slice_, 1
    for name, value in changes.items():
        header[name] = value
    data = np.arange(30, dtype=np.float32).reshape(1, 1, 5, 6) * 1e-6 * (1 + slice_)
    return Image(header=header, data=data, meta={"SeriesDescription": "mnet_modl"})


def test_values_survive_the_scale_of_16_bits_and_slices_share_it(tmp_path: Path) -> None:
    stack = [image(0), image(1)]
    made = write_dicom(tmp_path / "dicom", stack)
    read = [pydicom.dcmread(path) for path in made]
    assert [int(d.InstanceNumber) for d in read] == [1, 2]
    assert {int(d.SeriesNumber) for d in read} == {1}
    assert len({str(d.SeriesInstanceUID) for d in read}) == 1
    assert len({str(d.SOPInstanceUID) for d in read}) == 2
    slopes = {d.RealWorldValueMappingSequence[0].RealWorldValueSlope for d in read}
    assert len(slopes) == 1
    for one, dataset in zip(stack, read, strict=True):
        assert np.abs(values(dataset) - one.data[0, 0]).max() <= slopes.copy().pop() * 0.5001
        assert "RescaleSlope" not in dataset
    low, high = (
        float(read[1].WindowCenter) + half * float(read[1].WindowWidth) for half in (-0.5, 0.5)
    )
    assert (low, high) == pytest.approx((0, 65535))


def test_a_window_of_the_image_is_one_of_stored_values(tmp_path: Path) -> None:
    windowed = replace(image(), meta={"WindowCenter": "1e-5", "WindowWidth": "2e-5"})
    dataset = pydicom.dcmread(write_dicom(tmp_path / "dicom", [windowed])[0])
    # 29e-6 is 65535
    assert float(dataset.WindowWidth) == pytest.approx(65535 * 20 / 29)
    assert float(dataset.WindowCenter) == pytest.approx(65535 * 10 / 29)


def test_nobody_is_named_but_whom_the_caller_names(tmp_path: Path) -> None:
    (path,) = write_dicom(tmp_path / "nobody", [image()])
    dataset = pydicom.dcmread(path)
    filled = {e.keyword for e in dataset if e.value and e.tag.group == 0x0010}
    assert not filled
    assert not any(dataset.get(name) for name in ("StudyDate", "StudyID", "AccessionNumber"))
    who = Identity(patient_name="Müller^Jörg", patient_id="17", sex="M", study_uid="1.2.3")
    (path,) = write_dicom(tmp_path / "named", [image()], identity=who)
    dataset = pydicom.dcmread(path)
    assert str(dataset.PatientName) == "Müller^Jörg"
    assert (dataset.PatientID, dataset.PatientSex) == ("17", "M")
    assert dataset.StudyInstanceUID == "1.2.3"


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
@pytest.mark.parametrize("who", [Identity(), Identity(patient_name="A^B", patient_id="1", sex="F")])
def test_dciodvfy_finds_no_error(who: Identity, tmp_path: Path) -> None:
    stack = [image(n, r, contrast=c) for r in (0, 1) for c in (0, 1) for n in (0, 1)]
    phase = [replace(one, header=one.header.copy()) for one in stack]
    for one in phase:
        one.header["image_series_index"], one.header["image_type"] = 2, 2
    for path in write_dicom(tmp_path / "dicom", [*stack, *phase], identity=who):
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert "MRImage" in said
        assert "Error" not in said, said


def test_repetitions_are_the_fourth_axis_and_series_are_files(tmp_path: Path) -> None:
    stack = [image(n, r) for r in (0, 1, 2) for n in (1, 0)]
    other = [replace(one, header=one.header.copy()) for one in stack]
    for one in other:
        one.header["image_series_index"] = 2
    made = write_nifti(tmp_path / "v.nii", [*stack, *other])
    assert [path.name for path in made] == ["v.nii", "v_series2.nii"]
    data = np.asarray(nibabel.load(made[0]).dataobj)
    assert data.shape == (6, 5, 2, 3)
    np.testing.assert_array_equal(data[:, :, 1, 2], stack[0].data[0, 0].T)


def test_what_cannot_be_placed_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    lost = image(read_dir=(0, 0, 0))
    with pytest.raises(HeaderError, match=r"read_dir is \(0, 0, 0\), expected a direction"):
        write_dicom(tmp_path / "lost", [image(), replace(lost, header=lost.header)][1:])
    with pytest.raises(HeaderError, match="not at right angles"):
        write_dicom(tmp_path / "lost", [image(phase_dir=(0.6, 0.8, 0))])
    assert not (tmp_path / "lost").exists()
    uneven = [image(0), image(1), image(2, position=(1, 2, 13))]
    with pytest.raises(HeaderError, match="not parallel and evenly spaced"):
        write_nifti(tmp_path / "uneven.nii", uneven)
    with pytest.raises(ConfigError, match="no whole volumes"):
        write_nifti(tmp_path / "part.nii", [image(0), image(1), image(0, 1)])
    with pytest.raises(ConfigError, match="same slice, contrast"):
        write_nifti(tmp_path / "twice.nii", [image(0), image(0)])
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        write_dicom(tmp_path, [image()])


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--birth-date", "1.2.1990", "expected YYYYMMDD"),
        ("--sex", "male", "expected M, F or O"),
        ("--study-uid", "abc", "expected a UID"),
        ("--patient-id", "a\\b", "without a backslash"),
    ],
)
def test_an_identity_that_dicom_cannot_hold_is_refused(
    option: str, value: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "i.h5", [image()], "mnet")
    command = ["export", str(tmp_path / "i.h5"), "--dicom", str(tmp_path / "d"), option, value]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert expected in said
    assert option in said
    assert not (tmp_path / "d").exists()


def test_the_command_writes_both_and_takes_the_technique_from_the_scan(tmp_path: Path) -> None:
    from gadgets.files.source import write_mrd
    from tests.gadgets.helpers.synthetic import scanned

    one = scanned(n_ky=32)
    header = one.header.replace(
        b"<encoding>",
        b"<sequenceParameters><TR>500</TR><TE>12.5</TE></sequenceParameters><encoding>",
    )
    write_mrd(tmp_path / "scan.h5", header, one.lines(0))
    write_images(tmp_path / "i.h5", [image()], "mnet")
    command = ["export", str(tmp_path / "i.h5"), "--dicom", str(tmp_path / "d")]
    command += ["--nifti", str(tmp_path / "v.nii.gz"), "--scan", str(tmp_path / "scan.h5")]
    done = main(command)
    assert done == 0
    dataset = pydicom.dcmread(tmp_path / "d" / "1-0001.dcm")
    assert (float(dataset.RepetitionTime), float(dataset.EchoTime)) == (500, 12.5)
    assert nibabel.load(tmp_path / "v.nii.gz").shape == (6, 5, 1)
