"""HDF5 that is not what it says is refused by name, in bounded time and memory."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gadgets.errors import ConfigError, ProtocolError
from gadgets.files import hdf5
from gadgets.files.hdf5_process import read_apart
from gadgets.files.mrd_hdf5 import write_mrd
from gadgets.files.source import open_source, read_images
from gadgets.files.tissue_maps import read_tissues
from gadgets.mrd.messages import write_message
from tests.gadgets.helpers.synthetic import scanned

ONE = scanned(n_slices=1)
BLOCK = 4096


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.h5"
    write_mrd(path, ONE.header, ONE.lines())
    return path


def test_a_file_is_read_as_it_was_written(scan: Path) -> None:
    got = open_source(scan)
    assert [write_message(line) for line in got.acquisitions] == [
        write_message(line) for line in ONE.lines()
    ]
    got.acquisitions[0].data[...] = 0  # memory of our own, that others do not see
    assert open_source(scan).acquisitions[0].data.any()


def test_a_zeroed_block_that_keeps_hdf5_busy_for_ever_is_an_error(tmp_path: Path) -> None:
    """Of the 98 blocks of this file, 7 do; this is one of them."""
    path, many = tmp_path / "scan.h5", scanned(n_slices=4, n_ky=64, n_coils=2)
    write_mrd(path, many.header, [line for s in range(4) for line in many.lines(s)])
    data = bytearray(path.read_bytes())
    data[5 * BLOCK : 6 * BLOCK] = bytes(BLOCK)
    path.write_bytes(data)
    with pytest.raises(ProtocolError, match=r"scan\.h5 cannot be read as HDF5.*it is damaged"):
        read_apart(path, "gadgets.files.mrd_hdf5:lines", base_s=1.0, group="dataset", numbers=None)


TASKS = "tests.gadgets.helpers.hdf5_tasks"


def test_a_task_that_does_not_end_is_ended(scan: Path) -> None:
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises(ProtocolError, match=r"scan\.h5 cannot be read.* 1 s of processor time"):
        read_apart(scan, f"{TASKS}:spin", base_s=1.0)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began < 8
    assert len(open_source(scan).acquisitions) == 32


def test_a_task_that_takes_more_memory_than_a_file_explains_is_refused_it(scan: Path) -> None:
    with pytest.raises(ProtocolError, match="more memory than its size explains"):
        read_apart(scan, f"{TASKS}:take", n_bytes=2 << 30)
    answer, _ = read_apart(scan, f"{TASKS}:take", n_bytes=64 << 20)
    assert answer["taken"] == 64 << 20


def test_a_task_that_kills_its_process_is_an_error_and_the_next_one_is_answered(
    scan: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProtocolError, match=r"scan\.h5 cannot be read as HDF5.*status -6"):
        read_apart(scan, f"{TASKS}:die")
    assert len(open_source(scan).acquisitions) == 32


def test_arrays_cross_as_they_are_and_lists_end_to_end(scan: Path) -> None:
    _, (ones, joined, none) = read_apart(scan, f"{TASKS}:arrays")
    assert ones.dtype == np.complex64
    np.testing.assert_array_equal(ones, np.ones((2, 3)))
    np.testing.assert_array_equal(joined, np.arange(5, dtype=np.float32))
    assert none.shape == (0, 4)


Change = Callable[[h5py.File], None]


def kspace(shape: tuple[int, ...], **options: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file["dataset"]
        file.create_dataset("kspace", shape, np.complex64, **options)

    return change


def put(name: str, value: Any) -> Change:
    """Replace a member of `/dataset`."""

    def change(file: h5py.File) -> None:
        if name in file["dataset"]:
            del file["dataset"][name]
        file["dataset"][name] = value

    return change


def grow(file: h5py.File) -> None:
    file["dataset/data"].resize(1 << 40, axis=0)


def stored_elsewhere(file: h5py.File) -> None:
    del file["dataset"]
    outside = [(b"/etc/passwd", 0, 512)]
    file.create_dataset("kspace", (1, 8, 8), np.complex64, external=outside)


def virtual(file: h5py.File) -> None:
    del file["dataset"]
    layout = h5py.VirtualLayout((1, 8, 8), np.complex64)
    layout[0] = h5py.VirtualSource("other.h5", "kspace", (8, 8))
    file.create_virtual_dataset("kspace", layout)


def group_for_kspace(file: h5py.File) -> None:
    file.create_group("kspace")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (grow, "1099511627776.* values are .* bytes, the file has"),
        (kspace((1 << 20, 1 << 10, 8, 8), chunks=(1, 1, 8, 8)), "bytes, the file has 0"),
        (kspace((1, 70_000, 4, 4)), "at most 65535 .* got .*70000"),
        (kspace((1, 2, 0, 4)), "expected complex"),
        (group_for_kspace, "kspace: expected a dataset, got a group"),
        (stored_elsewhere, "kspace is stored in other files"),
        (virtual, "kspace is stored in other files"),
        (put("xml", np.zeros(0, "S9")), "xml: expected one text"),
        (put("xml", ""), "expected a text of 1 to"),
        (put("xml", h5py.Empty("S9")), "xml: expected values, got none"),
        (put("xml", 5), "xml: expected one text, got int64"),
        (put("xml", h5py.ExternalLink("/etc/passwd", "/xml")), "a link to another file"),
        (put("data", h5py.ExternalLink("other.h5", "/data")), "a link to another file"),
        (put("data", h5py.SoftLink("/dataset/xml")), "data is a link to '/dataset/xml'"),
        (put("data", np.zeros(3)), "data: expected fields"),
        (put("waveforms", np.zeros(3)), "waveforms: expected fields"),
        (put("waveforms", h5py.SoftLink("/nowhere")), "waveforms is a link to"),
    ],
)
def test_what_a_file_claims_is_checked_before_it_is_believed(
    change: Change, words: str, scan: Path
) -> None:
    with h5py.File(scan, "a") as file:
        change(file)
    with pytest.raises(ProtocolError, match=words) as error:
        open_source(scan)
    assert str(scan) in str(error.value)
    assert "root:" not in str(error.value)


def test_images_and_tissue_maps_are_read_with_the_same_care(tmp_path: Path) -> None:
    path = tmp_path / "images.h5"
    with h5py.File(path, "w") as file:
        series = file.create_group("mnet/image_0")
        series["data"] = h5py.ExternalLink("other.h5", "/data")
        series["header"] = series["attributes"] = np.zeros(1)
    with pytest.raises(ProtocolError, match="a link to another file"):
        read_images(path)
    with h5py.File(path, "w") as file:
        group = file.create_group("tissues")
        group["names"], group["density_t1_t2"] = ["CSF"], np.zeros((2, 2))
        group["fractions"] = group["coils"] = np.zeros((1, 1, 2, 2))
    with pytest.raises(ConfigError, match="do not fit together"):
        read_tissues(path)


def test_a_signature_is_found_behind_a_user_block_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for n_before, found in ((0, True), (512, True), (1024, True), (2048, True), (100, False)):
        path.write_bytes(bytes(n_before) + hdf5.SIGNATURE + bytes(20))
        assert hdf5.is_hdf5(path) is found is bool(h5py.is_hdf5(path) or found)
    path.write_bytes(b"\x89HDF")
    assert not hdf5.is_hdf5(path)
