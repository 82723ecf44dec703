"""MRD 2: raw data go through the kept library and come back, and its own streams make images."""

import builtins
import io
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gadgets.cli import main
from gadgets.errors import ConfigError, ProtocolError
from gadgets.files.image_file import read_images
from gadgets.files.mrd2_stream import read_mrd2, write_mrd2
from gadgets.files.source import open_source, write_mrd
from gadgets.host.stream import run_mrd2
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_xml import with_user_parameter
from gadgets.pipeline.build import load
from tests.gadgets.helpers.cases import images_of, nrmse
from tests.gadgets.helpers.closed_loop import source
from tests.gadgets.helpers.processes import started

mrd = pytest.importorskip("mrd")
SCAN = source(n_slices=2, n_repetitions=2)


def test_lines_and_header_survive(tmp_path: Path) -> None:
    xml = with_user_parameter(SCAN.header, "mnet_scan_token", "abc")
    write_mrd2(tmp_path / "s.mrd2", xml, SCAN.acquisitions)
    header, lines, _ = read_mrd2(tmp_path / "s.mrd2")
    assert Geometry.parse(header) == Geometry.parse(xml)
    for ours, again in zip(SCAN.acquisitions, lines, strict=True):
        np.testing.assert_array_equal(again.data, ours.data)
        assert again.header.tobytes() == ours.header.tobytes()


def test_convert_goes_both_ways_and_the_images_are_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mrd(tmp_path / "a.h5", SCAN.header, SCAN.acquisitions)
    assert main(["convert", str(tmp_path / "a.h5"), str(tmp_path / "b.mrd2")]) == 0
    assert "(MRD 2)" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "b.mrd2"), str(tmp_path / "c.h5")]) == 0
    assert "b.mrd2 (MRD 2) ->" in capsys.readouterr().out
    first, last = (images_of(open_source(tmp_path / name))[0] for name in ("a.h5", "c.h5"))
    assert max(nrmse(i, j) for i, j in zip(first, last, strict=True)) == 0


def test_the_library_s_own_phantom_is_read(tmp_path: Path) -> None:
    """Written by the package's generator, an independent writer."""
    phantom = pytest.importorskip("mrd.tools.phantom")
    path = tmp_path / "phantom.mrd2"
    with path.open("wb") as file:
        phantom.generate(file, matrix=32, coils=3, oversampling=2, repetitions=1, noise_level=0.01)
    scan = open_source(path)
    assert scan.kind == "MRD 2"
    assert b"Doe" not in scan.header, "whose scan it is does not come along"
    (image,) = images_of(scan)[0]
    middle = np.abs(image.data[0, 0])[8:24, 8:24].mean()
    assert middle > 3 * np.abs(image.data[0, 0])[0].mean()


def test_a_cut_stream_says_so(tmp_path: Path) -> None:
    write_mrd2(tmp_path / "s.mrd2", SCAN.header, SCAN.acquisitions)
    whole = (tmp_path / "s.mrd2").read_bytes()
    (tmp_path / "cut.mrd2").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ProtocolError, match=r"cut\.mrd2 cannot be read as an MRD 2 stream"):
        open_source(tmp_path / "cut.mrd2")


def test_without_the_package_the_format_and_the_extra_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mrd2(tmp_path / "s.mrd2", SCAN.header, SCAN.acquisitions)
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "mrd":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"MRD 2 .* pip install mnet-gadgets\[mrd2\]"):
        open_source(tmp_path / "s.mrd2")


def test_a_stream_of_mrd_2_becomes_one_of_images_which_other_commands_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through named pipes, as a container is run; the images are those of the MRD stream."""
    write_mrd2(tmp_path / "s.mrd2", SCAN.header, SCAN.acquisitions)
    write_mrd(tmp_path / "s.h5", SCAN.header, SCAN.acquisitions)
    for end in ("in", "out"):
        os.mkfifo(tmp_path / end)
    command = [sys.executable, "-m", "gadgets.cli", "stream", "--config", "zero_filled.xml"]
    command += ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    with started(command) as process:
        sender = threading.Thread(
            target=lambda: (tmp_path / "in").write_bytes((tmp_path / "s.mrd2").read_bytes())
        )
        sender.start()
        (tmp_path / "images.mrd2").write_bytes((tmp_path / "out").read_bytes())
        sender.join()
    assert process.returncode == 0
    with (tmp_path / "images.mrd2").open("rb") as file, mrd.BinaryMrdReader(file) as theirs:
        assert theirs.read_header() is not None
        heads = [item.value.head for item in theirs.read_data()]
    expected = images_of(open_source(tmp_path / "s.h5"))[0]
    found = read_images(tmp_path / "images.mrd2")
    assert [head.slice for head in heads] == [int(image.header["slice"]) for image in expected]
    for ours, image in zip(found, expected, strict=True):
        assert nrmse(ours, image) < 1e-5
        for name in ("position", "read_dir", "field_of_view", "repetition", "image_index"):
            np.testing.assert_array_equal(ours.header[name], image.header[name])
    capsys.readouterr()
    assert main(["show", str(tmp_path / "images.mrd2"), "--output", str(tmp_path / "a.png")]) == 0


def test_a_cut_stream_of_mrd_2_leaves_no_end(tmp_path: Path) -> None:
    write_mrd2(tmp_path / "s.mrd2", SCAN.header, SCAN.acquisitions)
    whole = (tmp_path / "s.mrd2").read_bytes()
    out = io.BytesIO()
    with pytest.raises(ProtocolError, match="the input cannot be read as an MRD 2 stream"):
        run_mrd2(io.BytesIO(whole[: len(whole) // 2]), out, load("zero_filled.xml"))
    with pytest.raises(EOFError), mrd.BinaryMrdReader(io.BytesIO(out.getvalue())) as theirs:
        theirs.read_header()
        list(theirs.read_data())
