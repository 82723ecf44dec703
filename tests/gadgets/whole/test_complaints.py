"""What users of the existing tools complain about, by repository and thread: here it works.

Complaints that whole files of tests answer: gadgetron 1003 and SIRF 441, orientation, in
test_orientation; gadgetron 1114, where noise is kept, in test_noise_store; gadgetron 902, a GPU
that is not visible, in test_doctor; ismrmrd 151, fastMRI files, in test_convert and test_dataset;
mrpro 217, siemens_to_ismrmrd 142 and ismrmrd 131, limits and a wrong centre, in test_geometry,
test_twix_file and test_bookkeeping; gadgetron 1007 under the C++ Gadgetron in test_external.
"""

import logging
import re
import socket
import subprocess
import sys
import tomllib
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gadgets.cli import main
from gadgets.files.mrd_hdf5 import lines as lines_of_file
from gadgets.files.source import read_images, write_mrd
from gadgets.host.child_host import Address
from gadgets.mrd.header_layouts import ACQUISITION_HEADER, IMAGE_HEADER, Flag, image_key
from gadgets.mrd.items import Acquisition, Frame, Image
from gadgets.mrd.messages import (
    Close,
    ConfigFile,
    Header,
    Message,
    Text,
    buffer_reader,
    read_message,
    write_message,
)
from gadgets.pipeline.build import load, parse
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.scanner.client import MrdClient, PeerError
from gadgets.steps.image_finish import ImageFinish
from gadgets.steps.reconstruct import Reconstruct
from tests.gadgets.helpers.peer import session
from tests.gadgets.helpers.synthetic import acquisition, scanned

with warnings.catch_warnings():  # importing ismrmrd changes the warning filters
    import ismrmrd

ROOT = Path(__file__).resolve().parents[3]
ONE = scanned(n_ky=32, n_slices=2)
CONFIG = ConfigFile("zero_filled.xml")
PIPELINES = sorted(
    path.name for path in resources.files("xml_configs").iterdir() if path.name.endswith(".xml")
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A fastMRI file, converted."""
    with h5py.File(tmp_path / "fastmri.h5", "w") as file:
        file["kspace"] = ONE.kspace
        file["ismrmrd_header"] = ONE.header
    path = tmp_path / "raw.h5"
    assert main(["convert", str(tmp_path / "fastmri.h5"), str(path)]) == 0
    return path


def replayed(raw: Path, address: Address, config: str, *more: str) -> int:
    where = f"{address.host}:{address.port}"
    return main(["replay", str(raw), "--host", where, "--config", config, *more])


def test_gadgetron_870_a_fastmri_user_gets_images_or_an_error_and_a_status(
    raw: Path, tmp_path: Path, address: Address, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replayed(raw, address, "default.xml", "--output", str(tmp_path / "out.h5")) == 0
    assert len(read_images(tmp_path / "out.h5")) == 2
    assert replayed(raw, address, "no_such.xml") == 1
    assert "no pipeline 'no_such.xml'" in capsys.readouterr().err
    assert replayed(raw, address, "null") == 1, "no error and no image is a failure too"


def test_gadgetron_1007_a_gadget_that_fails_ends_the_session_and_says_why(address: Address) -> None:
    lines = [*ONE.lines(0), *ONE.lines(1)]
    lines[40] = acquisition(lines[40].data[:2], kspace_encode_step_1=8, slice=1)
    *images, text, end = session(address, CONFIG, Header(ONE.header), *lines, Close())
    assert all(isinstance(one, Image) and one.header["slice"] == 0 for one in images)
    assert isinstance(text, Text)
    assert "ERROR: GadgetError" in text.text
    assert "2 coils, expected 3" in text.text
    assert end == Close()


def test_gadgetron_1032_nobody_there_is_said_at_once_and_a_silent_host_is_not_waited_for(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with (
            MrdClient("127.0.0.1", port) as client,
            pytest.raises(PeerError, match=r"did not finish within 0\.1 s"),
        ):
            client.finish(timeout_s=0.1)
    assert replayed(raw, Address(host="127.0.0.1", port=port, mask_endpoint=""), "null") == 1
    assert "refused" in capsys.readouterr().err


def test_gadgetron_560_and_748_the_log_tells_how_far_a_scan_is_and_that_its_noise_is_missing(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    named = (
        b"<measurementInformation><patientPosition>HFS</patientPosition><measurementDependency>"
        b"<dependencyType>Noise</dependencyType><measurementID>none</measurementID>"
        b"</measurementDependency></measurementInformation><acquisitionSystemInformation>"
    )
    header = ONE.header.replace(b"<acquisitionSystemInformation>", named, 1)
    lines = [*ONE.lines(0), *ONE.lines(1)]
    with caplog.at_level(logging.INFO, logger="gadgets"):
        session(address, CONFIG, Header(header), *lines, Close())
    told = [record.getMessage() for record in caplog.records]
    noise = "the noise measurement that the header names is not used: it is not stored here"
    wanted = ["connection from 127.0.0.1", noise]
    wanted += [f"image of slice {n}, repetition 0" for n in (0, 1)]
    wanted.append(
        "the scan ended: 64 lines, 2 images; 1 scans without the noise that they refer to"
    )
    assert [line for line in told if line in wanted] == wanted


@pytest.mark.parametrize("name", PIPELINES)
def test_gadgetron_873_every_shipped_pipeline_says_what_it_is_for(name: str) -> None:
    text = load(name)
    comments = re.findall(r"<!--(.*?)-->", text, re.DOTALL)
    assert text.index("<!--") < text.index("<configuration>"), "what it is for comes first"
    assert len(comments) >= 2, "and every part has its own"
    assert len(comments[0].split()) >= 20


@pytest.mark.parametrize(("dtype", "stored"), [("float", np.float32), ("ushort", np.uint16)])
def test_gadgetron_872_pixels_are_integers_only_where_asked_and_then_say_their_scale(
    dtype: Any, stored: type
) -> None:
    assert ImageFinish().dtype == "float"
    image, pixels = finished(dtype)
    assert image.data.dtype == stored
    slope = float(image.meta.get("RescaleSlope", 1))
    assert ("RescaleSlope" in image.meta) == (dtype == "ushort")
    np.testing.assert_allclose(image.data[0, 0] * slope, pixels, atol=pixels.max() / 4000)


def finished(dtype: Any = "float") -> tuple[Image, np.ndarray]:
    """Return a finished image and its magnitude (y, x)."""
    rng = np.random.default_rng(2)
    pixels = rng.normal(size=(24, 32)).astype(np.complex64)
    line = ONE.line(16)
    frame = Frame(
        key=image_key(line.header),
        header=line.header,
        kspace=np.zeros((3, 24, 32), np.complex64),
        mask=np.ones(32, bool),
        calibration=np.ones(32, bool),
        image=pixels,
    )
    (image,) = run((ImageFinish(dtype=dtype),), Scan(geometry=ONE.geometry), [frame])
    assert isinstance(image, Image)
    return image, np.abs(pixels).T


def test_gadgetron_1112_nothing_has_to_be_compiled_to_install_it() -> None:
    packing = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "ext-modules" not in packing
    kinds = {".py", ".json", ".safetensors", ".xml", ".html", ".css", ".js"}
    for package in packing["packages"]["find"]["include"]:
        for path in (ROOT / package.removesuffix("*")).rglob("*"):
            plain = path.is_dir() or path.suffix in kinds or path.name == "py.typed"
            assert plain or "__pycache__" in path.parts, f"{path} is not for pip alone"


def test_gadgetron_902_a_gpu_without_memory_left_leaves_the_scan_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original, devices = Reconstruct._image, []

    def full(self: Any, models: Any, device: str, *arrays: Any) -> torch.Tensor:
        devices.append(device)
        if device != "cpu":
            raise torch.cuda.OutOfMemoryError("full")
        return original(self, models, device, *arrays)

    monkeypatch.setattr(Reconstruct, "_image", full)
    line = ONE.line(16)
    frame = Frame(
        key=image_key(line.header),
        header=line.header,
        kspace=ONE.hybrid().astype(np.complex64),
        mask=np.ones(32, bool),
        calibration=np.ones(32, bool),
        csm=np.ones((3, 24, 32), np.complex64),
    )
    scan = Scan(geometry=ONE.geometry, device="cuda")
    found = run((Reconstruct(method="zero_filled"),), scan, [frame, frame])
    assert [one.image is not None for one in found if isinstance(one, Frame)] == [True, True]
    assert devices == ["cuda", "cpu", "cpu"]
    assert "goes on on the CPU" in caplog.text


def test_gadgetron_1199_reversed_asymmetric_echoes_give_the_image_of_plain_ones() -> None:
    def cut(ky: int, *, reverse: bool) -> Acquisition:
        data = ONE.line(ky).data[:, 10:]
        if reverse:
            data, centre, flags = data[:, ::-1], data.shape[1] - 1 - 14, int(Flag.REVERSE)
        else:
            centre, flags = 14, 0
        return acquisition(data, kspace_encode_step_1=ky, center_sample=centre, flags=flags)

    plain = [cut(ky, reverse=False) for ky in range(32)]
    turned = [cut(ky, reverse=ky % 2 == 1) for ky in range(32)]
    images = []
    for lines in (plain, turned):
        out = run(parse(load("default.xml")), Scan(geometry=ONE.geometry), lines)
        images += [one.data for one in out if isinstance(one, Image)]
    assert len(images) == 2
    np.testing.assert_allclose(images[1], images[0], atol=1e-5 * images[0].max())


def again(message: Message) -> Message:
    read = buffer_reader(write_message(message) + b"next")
    found = read_message(read)
    assert bytes(read(4)) == b"next"
    return found


@given(
    channels=st.integers(1, 70),
    samples=st.integers(0, 40),
    dimensions=st.integers(0, 3),
    counter=st.integers(0, 65535),
)
@settings(deadline=None)
def test_gadgetron_808_acquisitions_of_any_size_survive_the_wire(
    channels: int, samples: int, dimensions: int, counter: int
) -> None:
    rng = np.random.default_rng(counter)
    data = rng.standard_normal((channels, samples, 2), np.float32).view(np.complex64)[..., 0]
    line = acquisition(data, kspace_encode_step_1=counter, trajectory_dimensions=dimensions)
    trajectory = rng.standard_normal((samples, dimensions), np.float32) if dimensions else None
    found = again(Acquisition(header=line.header, data=data, trajectory=trajectory))
    assert isinstance(found, Acquisition)
    assert found.header == line.header
    np.testing.assert_array_equal(found.data, data)
    if trajectory is not None:
        assert found.trajectory is not None
        np.testing.assert_array_equal(found.trajectory, trajectory)


@given(shape=st.tuples(*4 * [st.integers(1, 9)]), meta=st.text("ab<&é", max_size=9))
@settings(deadline=None)
def test_gadgetron_808_images_of_any_size_survive_the_wire(
    shape: tuple[int, int, int, int], meta: str
) -> None:
    header = np.zeros(1, IMAGE_HEADER)[0]
    header["data_type"], header["channels"], header["matrix_size"] = 5, shape[0], shape[:0:-1]
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = again(Image(header=header, data=data, meta={"ImageComments": meta}))
    assert isinstance(found, Image)
    np.testing.assert_array_equal(found.data, data)
    assert found.meta == {"ImageComments": meta}


def test_ismrmrd_python_65_a_file_is_read_in_one_piece_not_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(n_lines: int) -> int:
        path = tmp_path / f"{n_lines}.h5"
        write_mrd(path, ONE.header, (ONE.line(ky % 32) for ky in range(n_lines)))
        n_reads, original = 0, h5py.Dataset.__getitem__

        def counted(self: h5py.Dataset, *arguments: Any, **more: Any) -> Any:
            nonlocal n_reads
            n_reads += 1
            return original(self, *arguments, **more)

        with monkeypatch.context() as patched, h5py.File(path) as file:
            patched.setattr(h5py.Dataset, "__getitem__", counted)
            (headers, *_) = lines_of_file(file, group="dataset", numbers=None)[1]
        assert headers.nbytes == n_lines * ACQUISITION_HEADER.itemsize
        return n_reads

    assert 0 < reads(300) == reads(3)


def test_ismrmrd_python_54_33_and_42_ismrmrd_sees_an_image_that_is_not_square_as_it_is() -> None:
    image, pixels = finished()
    assert pixels.shape == (32, 24), "(y, x)"
    read = buffer_reader(write_message(image)[2:])
    theirs = ismrmrd.Image.deserialize_from(lambda n: bytes(read(n)))
    assert theirs.data.shape == (1, 1, 32, 24)
    np.testing.assert_array_equal(theirs.data[0, 0], image.data[0, 0])
    ours = again(image)
    assert isinstance(ours, Image)
    assert ours.header["matrix_size"].tolist() == [24, 32, 1], "(x, y, z)"


def test_python_ismrmrd_server_13_a_stream_does_not_depend_on_the_version_of_ismrmrd() -> None:
    modules = ("host.serve", "host.session", "scanner.client", "files.source", "scanner.sequence")
    ours = ", ".join(f"gadgets.{module}" for module in modules)
    check = f"import sys, {ours}; sys.exit('ismrmrd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
