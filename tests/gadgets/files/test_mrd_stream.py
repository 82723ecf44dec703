"""MRD streams as data: told by content, read by every command, and refused where they are cut."""

import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from gadgets.errors import ProtocolError
from gadgets.files.mrd_hdf5 import write_mrd
from gadgets.files.mrd_stream import is_stream
from gadgets.files.source import Source, open_kspace, open_source
from gadgets.mrd.items import Acquisition
from gadgets.mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Header,
    Message,
    Text,
    message_buffers,
)
from tests.gadgets.files.test_source import HEADER, image, lines, waves
from tests.gadgets.helpers.cases import against_the_phantom

with warnings.catch_warnings():  # importing ismrmrd changes the warning filters
    import ismrmrd

AHEAD = {
    "header": [],
    "name": [ConfigFile("default.xml")],
    "script": [ConfigScript(b"<configuration/>"), Text("note")],
}


def stream(path: Path, *messages: Message) -> Path:
    path.write_bytes(b"".join(b"".join(message_buffers(one)) for one in messages))
    return path


def assert_holds(source: Source, expected: list[Acquisition]) -> None:
    assert source.kind == "MRD stream"
    assert source.header == HEADER
    assert len(source.acquisitions) == len(expected)
    for one, other in zip(source.acquisitions, expected, strict=True):
        assert one.header == other.header
        np.testing.assert_array_equal(one.data, other.data)


@pytest.mark.parametrize("ahead", AHEAD)
def test_a_stream_in_a_file_is_told_by_content_whatever_it_begins_with(
    tmp_path: Path, ahead: str
) -> None:
    sent = [*AHEAD[ahead], Header(HEADER), *waves(), Text("log"), *lines(), Close()]
    path = stream(tmp_path / "scan.h5", *sent)  # the suffix says nothing
    source = open_source(path)
    assert_holds(source, lines())
    assert len(source.waveforms) == 1
    (third,) = open_kspace(path).lines(np.array([2]))
    np.testing.assert_array_equal(third.data, lines()[2].data)
    assert open_kspace(path).headers()["kspace_encode_step_1"].tolist() == [0, 1, 2, 3, 4]


def test_a_stream_of_the_ismrmrd_package_is_read(tmp_path: Path) -> None:
    path, raw = tmp_path / "scan.ismrmrd", tmp_path / "raw.h5"
    write_mrd(raw, HEADER, lines())
    with ismrmrd.File(str(raw), "r") as file:
        container = file["dataset"]
        with ismrmrd.ProtocolSerializer(str(path)) as writer:
            writer.serialize(container.header)
            for line in container.acquisitions[:]:
                writer.serialize(line)
    source = open_source(path)
    assert source.kind == "MRD stream"
    for one, other in zip(source.acquisitions, lines(), strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_a_stream_in_a_named_pipe_is_read(tmp_path: Path) -> None:
    whole = stream(tmp_path / "whole", Header(HEADER), *lines(), Close()).read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(whole))
    writer.start()
    assert_holds(open_source(pipe), lines())
    writer.join(10)


def test_a_cut_stream_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = stream(tmp_path / "whole", Header(HEADER), *lines(), Close()).read_bytes()
    cut = tmp_path / "cut"
    for size in (40, len(HEADER) + 6, len(whole) // 2, len(whole) - 3, len(whole) - 2):
        cut.write_bytes(whole[:size])
        with pytest.raises(ProtocolError, match=r"cut: the MRD stream is cut.*without CLOSE"):
            open_source(cut)


def test_a_stream_of_images_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    path = stream(tmp_path / "images", Header(HEADER), image(), Close())
    with pytest.raises(ProtocolError, match="holds message 1022 IMAGE, expected raw data"):
        open_source(path)


def test_other_files_are_no_streams() -> None:
    assert not is_stream(b"")
    assert not is_stream(b"\x03\x00\x10\x00\x00\x00binary")
    assert not is_stream(b"\x01\x00\x01\x00\x00\x00" + bytes(1020))
    assert not is_stream(b"\x89HDF\r\n\x1a\n" + bytes(1018))


def test_a_converter_s_stream_gives_the_phantom(shared: Path) -> None:
    path = shared / "cases/base.ismrmrd"
    (found,) = against_the_phantom(path, open_source(path))
    assert found < 1e-3  # the same lines as in HDF5
