"""Our node as a process under a stand-in for the C++ Gadgetron."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gadgets import external
from gadgets.cli import main
from gadgets.mask.binder import MaskService
from gadgets.mask.curve_keys import ClientKeys, ServerKeys, make_keys
from gadgets.mask.messages import Scope
from gadgets.mask.sequence_port import SequencePort
from gadgets.mrd.geometry import SCAN_TOKEN
from gadgets.mrd.header_xml import with_user_parameter
from gadgets.mrd.items import Image
from gadgets.pipeline.build import load, parse
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.scanner.sequence import hello_of
from tests.gadgets.helpers import closed_loop
from tests.gadgets.helpers.external_parent import (
    CLOSE,
    IMAGE,
    PATIENCE,
    QUICK,
    Parent,
    acquisition_bytes,
    cropped,
    failed,
    node_document,
    plain_loop,
    upstream,
)
from tests.gadgets.helpers.mask_bench import ANYWHERE, until
from tests.gadgets.helpers.processes import children, is_running
from tests.gadgets.helpers.synthetic import changed, scanned


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Parent]]:
    """Start a node; none outlives the test."""
    started: list[Parent] = []

    def start(header: bytes, configuration: bytes | None = None, **options: object) -> Parent:
        parent = Parent(tmp_path / f"node{len(started)}.log", **options)  # type: ignore[arg-type]
        started.append(parent)
        parent.start(node_document(QUICK) if configuration is None else configuration, header)
        return parent

    yield start
    for parent in started:
        parent.__exit__()


def test_images_equal_the_plain_loop_and_leave_while_the_scan_goes_on(
    start: Callable[..., Parent],
) -> None:
    scan = scanned(n_slices=2)
    first, second = upstream(scan, 0), upstream(scan, 1)
    parent = start(scan.header)
    parent.send_all(first)
    early = parent.next()  # before anything of the second slice is there
    parent.send_all(second)
    parent.close()
    images = [early, *parent.rest()[:-1]]
    assert parent.status() == 0, parent.log
    expected = plain_loop(scan, QUICK, first + second)
    assert len(images) == len(expected) == 2
    for image, wanted in zip(images, expected, strict=True):
        assert image.pixels is not None
        np.testing.assert_allclose(image.pixels, wanted.data, rtol=1e-5, atol=1e-6)
        assert image.slice == int(wanted.header["slice"])
    # and equal to those of our own host, which crops the oversampling itself
    whole = QUICK.replace("<gadget", '<gadget class="RemoveReadoutOversampling"/><gadget', 1)
    lines = scan.lines(0) + scan.lines(1)
    for image, own in zip(images, plain_loop(scan, whole, lines), strict=True):
        np.testing.assert_allclose(image.pixels, own.data, rtol=1e-4, atol=1e-5)


def test_a_failure_at_the_start_is_told_with_its_traceback_and_the_input_read_to_its_end(
    start: Callable[..., Parent],
) -> None:
    scan = scanned()
    wrong = node_document(QUICK.replace('name="method"', 'name="methods"'))
    parent = start(scan.header, wrong)
    big = scanned(n_x=1024, n_coils=8)
    for _ in range(4):  # 17 MB, far more than the buffers of both ends hold
        parent.send_all(upstream(big))
    parent.close()
    assert "gadget Reconstruct has no property methods" in failed(parent.rest())
    assert parent.status() != 0


def test_a_target_that_is_none_is_told_and_the_input_read_to_its_end(
    start: Callable[..., Parent],
) -> None:
    """The package alone would close, as was recorded, and the client see nothing."""
    scan = scanned()
    parent = start(scan.header, target="Pipeline")
    parent.send_all(upstream(scan))
    parent.close()
    said = failed(parent.rest())
    assert 'target="Pipeline"' in said
    assert 'expected target="pipeline"' in said
    assert parent.status() != 0


def test_elsewhere_the_module_of_the_node_has_what_it_has() -> None:
    assert not hasattr(external, "Pipeline")


def test_a_failure_in_mid_stream_lets_no_further_image_out(start: Callable[..., Parent]) -> None:
    scan = scanned(n_slices=3, n_coils=3)
    parent = start(scan.header)
    parent.send_all(upstream(scan, 0))
    assert parent.next().id == IMAGE
    lines = upstream(scan, 1)
    spoiled = changed(lines[7], active_channels=2)
    parent.send_all(lines[:7])
    parent.sock.sendall(acquisition_bytes(spoiled)[: -lines[7].data[0].nbytes])
    parent.send_all(lines[8:] + upstream(scan, 2))
    parent.close()
    messages = parent.rest()
    assert "has 2 coils, expected 3" in failed(messages)
    assert len(messages) == 2, "no image after the failure"
    assert parent.status() != 0


@pytest.mark.parametrize("how", ["in mid-message", "between messages", "by reset"])
def test_a_parent_that_dies_ends_the_node(start: Callable[..., Parent], how: str) -> None:
    scan = scanned(n_slices=2)
    parent = start(scan.header)
    parent.send_all(upstream(scan, 0))
    assert parent.next().id == IMAGE
    lines = upstream(scan, 1)
    parent.send_all(lines[:5])
    if how == "in mid-message":
        parent.sock.sendall(acquisition_bytes(lines[5])[:400])
    if how == "by reset":
        parent.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        parent.sock.shutdown(socket.SHUT_RD)  # wakes the reader, which would hold the socket open
    else:
        parent.sock.shutdown(socket.SHUT_RDWR)
    parent.sock.close()
    assert parent.status() != 0
    assert "the parent Gadgetron vanished" in parent.log


def test_a_worker_that_dies_is_told(start: Callable[..., Parent]) -> None:
    scan = scanned(n_slices=2)
    parent = start(scan.header)
    parent.send_all(upstream(scan, 0))
    assert parent.next().id == IMAGE
    [worker] = children(parent.process.pid)
    os.kill(worker, signal.SIGKILL)
    parent.send_all(upstream(scan, 1))
    parent.close()
    messages = parent.rest()
    assert "the reconstruction worker ended (exit status -9)" in failed(messages)
    assert len(messages) == 2, "no image after the failure"
    assert parent.status() != 0


def test_no_worker_outlives_a_node_that_is_killed(start: Callable[..., Parent]) -> None:
    scan = scanned()
    parent = start(scan.header)
    parent.send_all(upstream(scan))
    assert parent.next().id == IMAGE
    [worker] = children(parent.process.pid)
    parent.process.kill()
    until(lambda: not is_running(worker))


@pytest.mark.parametrize("number", [77, 1050])
def test_an_id_that_is_not_read_is_an_error_not_the_end_of_the_input(
    start: Callable[..., Parent], number: int
) -> None:
    scan = scanned(n_slices=2)
    parent = start(scan.header)
    parent.send_all(upstream(scan, 0))
    assert parent.next().id == IMAGE
    parent.sock.sendall(struct.pack("<H", number) + b"whatever" * 1000)
    parent.send_all(upstream(scan, 1))
    parent.close()
    assert f"message id {number}" in failed(parent.rest())
    assert parent.status() != 0, "with the connection still open: the parent waits for the process"


@pytest.mark.parametrize("later", [{"slice": 1}, {"contrast": 1}, {"repetition": 1}])
def test_lines_that_never_came_are_told_and_the_images_before_them_kept(
    start: Callable[..., Parent], later: dict[str, int]
) -> None:
    scan = scanned(n_slices=2, n_contrasts=2, n_repetitions=2)
    lines = upstream(scan)
    parent = start(scan.header)
    parent.send_all(lines + [changed(line, **later) for line in lines[:-3]])
    parent.close()
    messages = parent.rest()
    [(what, _)] = later.items()
    assert re.search(rf"lines are missing in 1 images.* {what} 1\b", failed(messages))
    assert [m.slice for m in messages if m.id == IMAGE] == [0]
    assert parent.status() != 0


def test_an_interrupt_is_an_error_to_the_parent(start: Callable[..., Parent]) -> None:
    scan = scanned(n_slices=2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    parent = start(scan.header)  # would inherit it where interrupts are ignored, as under nohup
    signal.signal(signal.SIGINT, before)
    parent.send_all(upstream(scan, 0))
    assert parent.next().id == IMAGE
    parent.process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in failed(parent.rest())
    assert parent.status() != 0


WAVEFORM = (
    b"<waveformInformation><waveformName>ECG</waveformName><waveformType>ecg</waveformType>"
    b"</waveformInformation>"
)


def test_waveform_information_without_user_parameters_does_not_kill_the_node(
    start: Callable[..., Parent], plugin: list[Path]
) -> None:
    scan = scanned()
    header = scan.header.replace(b"</ismrmrdHeader>", WAVEFORM + b"</ismrmrdHeader>")
    parent = start(header, folders=plugin)
    parent.send_all(upstream(scan))
    parent.close()
    assert [m.id for m in parent.rest()] == [IMAGE, CLOSE]
    assert parent.status() == 0, parent.log


ASKS = """
import ismrmrd
from ismrmrd.xsd.ismrmrdschema.ismrmrd import waveformInformationType
try:
    waveformInformationType(waveformName="ECG", waveformType="ecg")
except TypeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "command", [["-c", ASKS], ["-c", ASKS, "-m", "gadgetron"], ["-c", ASKS, "gadgets.external"]]
)
def test_no_other_program_that_loads_ismrmrd_finds_it_changed(
    command: list[str], plugin: list[Path]
) -> None:
    path = os.pathsep.join([*map(str, plugin), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "missing 1 required keyword-only argument: 'userParameters'" in done.stdout


@pytest.fixture
def plugin(tmp_path: Path) -> list[Path]:
    """Announce `gadgets.mrd.ismrmrd_patch` to xsdata, as an installation of this package does."""
    about = tmp_path / "site" / "announced-0.dist-info"
    about.mkdir(parents=True)
    about.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: announced\nVersion: 0\n")
    about.joinpath("entry_points.txt").write_text(
        "[xsdata.plugins.class_types]\nannounced = gadgets.mrd.ismrmrd_patch\n"
    )
    return [about.parent]


@contextmanager
def maskd(log: Path, options: Sequence[str]) -> Iterator[str]:
    """Run `mnet maskd` and give the endpoint."""
    command = [sys.executable, "-m", "gadgets.cli", "maskd", "--mask-endpoint", ANYWHERE, *options]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            until(
                lambda: re.search(r" at tcp:\S+\n", log.read_text()) or process.poll() is not None
            )
            endpoint = re.search(r" at (tcp:\S+)\n", log.read_text())
            assert endpoint is not None, log.read_text()
            yield endpoint[1]
        finally:
            process.terminate()


@pytest.mark.parametrize("with_keys", [False, True])
def test_masks_come_through_maskd_and_images_are_of_the_lines_they_ask_for(
    start: Callable[..., Parent], tmp_path: Path, with_keys: bool
) -> None:
    data, plan = closed_loop.source(1), closed_loop.sequence(deadline_ms=1000 * PATIENCE)
    token = str(uuid.uuid4())
    header = with_user_parameter(data.header, SCAN_TOKEN, token)
    hello = hello_of(data.geometry, plan, token)
    settings = {"device": "cpu"}
    options: list[str] = []
    keys: ClientKeys | None = None
    if with_keys:
        folder = tmp_path / "keys"
        assert main(["keys", str(folder), "--client", "scanner", "--client", "node"]) == 0
        options = ["--mask-keys", str(folder / "host")]
        keys = ClientKeys.load(folder / "scanner")
        settings["mask_keys"] = str(folder / "node")
    lines = {int(line.header["kspace_encode_step_1"]): line for line in data.acquisitions}
    with (
        maskd(tmp_path / "maskd.log", options) as endpoint,
        SequencePort(endpoint, hello, keys=keys) as sequence,
    ):
        settings["mask_endpoint"] = endpoint
        node = closed_loop.in_float32(load("gadgetron_adaptive_modl.xml"))
        parent = start(header, node_document(node, settings))
        assert sequence.wait_ready(PATIENCE), parent.log
        calibration = hello.calibration
        parent.send_all(cropped(lines[c]) for c in calibration)
        mask = sequence.poll(Scope(slice=0), time.monotonic() + PATIENCE)
        assert mask is not None, parent.log
        asked, fallback = set(mask.counters), set(hello.fallback)
        assert asked != fallback, "the two can be told apart"
        sequence.applied(
            Scope(slice=0),
            mask.counters,
            fallback=False,
            reason=mask.reason,
            message_id=mask.message_id,
        )
        parent.send_all(cropped(lines[c]) for c in sorted(asked - set(calibration)))
        parent.close()
        messages = parent.rest()
    assert parent.status() == 0, parent.log
    drawn, image = messages[:-1]
    assert (drawn.series, image.series) == (20, 1)
    assert drawn.pixels is not None
    assert set(np.flatnonzero(drawn.pixels).tolist()) == asked
    assert re.search(r"<name>mnet_fallback</name>\s*<value>false</value>", image.text)
    # the same lines through the plain loop, and readouts that nobody has cropped before
    retrospective = closed_loop.in_float32(load("adaptive_modl_retrospective.xml")).replace(
        'value="4"', f'value="{data.geometry.n_ky / len(asked)}"'
    )
    expected = run(parse(retrospective), Scan(geometry=data.geometry), data.acquisitions)
    [own] = [i for i in expected if isinstance(i, Image) and i.header["image_series_index"] == 1]
    assert image.pixels is not None
    np.testing.assert_allclose(image.pixels, own.data, rtol=1e-3, atol=1e-3 * own.data.max())


def test_a_node_whose_key_is_not_known_gets_no_masks_and_gives_its_images(
    start: Callable[..., Parent], tmp_path: Path
) -> None:
    make_keys(tmp_path / "keys", ["scanner"])
    make_keys(tmp_path / "other", ["node"])
    server = (tmp_path / "keys/host/server.pub").read_bytes()
    (tmp_path / "other/node/server.pub").write_bytes(server)
    scan = scanned()
    header = with_user_parameter(scan.header, SCAN_TOKEN, str(uuid.uuid4()))
    settings = {"mask_keys": str(tmp_path / "other/node")}
    with MaskService(ANYWHERE, keys=ServerKeys.load(tmp_path / "keys/host")) as service:
        settings["mask_endpoint"] = service.endpoint
        parent = start(header, node_document(QUICK, settings))
        parent.send_all(upstream(scan))
        assert parent.next().id == IMAGE
        until(lambda: service.refused > 0)
        parent.close()
        assert [m.id for m in parent.rest()] == [CLOSE]
        assert parent.status() == 0, parent.log
