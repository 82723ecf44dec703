"""Files that are not read are named by their first bytes, with what to do."""

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from gadgets.cli import main
from gadgets.errors import ProtocolError
from gadgets.files.source import open_source, write_mrd
from tests.gadgets.files.test_source import HEADER, fastmri, lines, padded_header, padded_kspace

NIFTI = struct.pack("<i", 348) + bytes(340)
GE = struct.pack("<f", 26.002) + bytes(12) + b"11/29/126\0" + bytes(4000)
FILES = {
    "dicom": (bytes(128) + b"DICM" + bytes(200), "is DICOM: it holds images and no k-space"),
    "nifti": (NIFTI + b"n+1\0", "is NIfTI: it holds images"),
    "pair": (NIFTI + b"ni1\0", "is NIfTI: it holds images"),
    "nifti2": (struct.pack("<i", 540) + b"n+2\0" + bytes(600), "is NIfTI: it holds images"),
    "ge": (GE, "is a GE P-file: convert it with ge_to_ismrmrd"),
    "matlab": (
        b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(200),
        r"is a MATLAB file: save k-space with -v7\.3",
    ),
    "zip": (b"PK\x03\x04" + bytes(500), "is a ZIP archive: unpack it"),
    "gzip": (b"\x1f\x8b\x08" + bytes(500), "is a gzip archive: unpack it"),
    "list": (b"# === DATA DESCRIPTION FILE ====\n", "is Philips raw data: convert it with philips"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_format_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    content, said = FILES[name]
    path = tmp_path / "scan.h5"  # whatever its suffix
    path.write_bytes(content)
    with pytest.raises(ProtocolError, match=rf"scan\.h5 {said}"):
        open_source(path)


def test_philips_raw_data_are_known_by_what_lies_beside_them(tmp_path: Path) -> None:
    raw = tmp_path / "scan.raw"
    raw.write_bytes(b"\x5a" * 600)
    with pytest.raises(ProtocolError, match="nor as a stream or twix"):
        open_source(raw)
    (tmp_path / "SCAN.LAB").write_bytes(bytes(64))
    with pytest.raises(ProtocolError, match="is Philips raw data: convert it with philips_to_"):
        open_source(raw)


def test_the_command_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "P12345.7"
    path.write_bytes(GE)
    assert main(["convert", str(path), str(tmp_path / "out.h5")]) == 1
    said = capsys.readouterr().err
    assert said.splitlines() == [
        f"mnet convert: {path} is a GE P-file: convert it with ge_to_ismrmrd"
    ]


@pytest.mark.parametrize("stored", ["<f8", ">f4", ">f8"])
def test_rows_of_doubles_or_of_big_endian_numbers_are_the_same_rows(
    tmp_path: Path, stored: str
) -> None:
    plain, other = tmp_path / "plain.h5", tmp_path / "other.h5"
    write_mrd(plain, HEADER, lines())
    with h5py.File(plain, "r") as source, h5py.File(other, "w") as target:
        rows = source["dataset/data"]
        fields = [(name, rows.dtype[name]) for name in ("head", "traj")]
        kind = np.dtype([*fields, ("data", h5py.vlen_dtype(np.dtype(stored)))])
        group = target.create_group("dataset")
        group["xml"] = source["dataset/xml"][()]
        data = group.create_dataset("data", rows.shape, kind)
        for i, row in enumerate(rows[()]):
            one = np.empty(1, kind)
            one[0] = row["head"], row["traj"], row["data"].astype(stored)
            data[i] = one[0]
    for ours, theirs in zip(
        open_source(plain).acquisitions, open_source(other).acquisitions, strict=True
    ):
        np.testing.assert_array_equal(ours.data, theirs.data)


@pytest.mark.parametrize("stored", ["<c16", ">c8"])
def test_a_fastmri_array_with_coils_last_or_of_other_numbers_is_the_same_scan(
    tmp_path: Path, stored: str
) -> None:
    kspace = padded_kspace()
    plain = open_source(fastmri(tmp_path / "plain.h5", kspace, padded_header()))
    turned = np.ascontiguousarray(kspace.transpose(0, 2, 3, 1)).astype(stored)
    other = open_source(fastmri(tmp_path / "turned.h5", turned, padded_header()))
    assert other.header == plain.header
    for ours, theirs in zip(plain.acquisitions, other.acquisitions, strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_a_group_of_another_name_is_read_and_of_several_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    write_mrd(path, HEADER, lines())
    with h5py.File(path, "a") as file:
        file.move("dataset", "a/mydata")
    assert len(open_source(path).acquisitions) == 5
    with h5py.File(path, "a") as file:
        file.copy("a/mydata", "other")
    target = str(tmp_path / "out.h5")
    assert main(["convert", str(path), target]) == 1
    assert main(["convert", str(path), target, "--group", "other"]) == 0
    assert len(open_source(target).acquisitions) == 5
