"""Our node under a stand-in for the C++ Gadgetron: what leaves it, and how it fails."""

import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

import closed_loop
import numpy as np
import pytest
from external_parent import (
    CAPTURES,
    CLOSE,
    ERROR,
    IMAGE,
    PATIENCE,
    Link,
    Parent,
    Received,
    acquisition_bytes,
    cropped,
    node_document,
    read_message,
    upstream,
)
from mask_bench import daemon
from synthetic import Scanned, changed, scanned

from gadgets.errors import ConfigError, ProtocolError
from gadgets.external import OneScan, read_settings
from gadgets.external_session import ExternalSession, node_pipeline
from gadgets.gadget import Models, Scan, run
from gadgets.geometry import SCAN_TOKEN, with_user_parameter
from gadgets.items import IMAGE_HEADER, Image
from gadgets.mask_messages import Scope
from gadgets.mask_peer import SequencePort
from gadgets.pipeline import load, parse
from gadgets.scanner import hello_of
from gadgets.session import Services

SHIPPED = (
    "gadgetron_adaptive_modl.xml",
    "gadgetron_adaptive_modl_retrospective.xml",
    "gadgetron_adaptive_modl_connect.xml",
)
QUICK = """
<configuration><version>2</version><stream><external>
  <execute name="gadgets.external" target="pipeline" type="python"/>
  <configuration device="cpu">
    <gadget class="AccumulateFrame"/>
    <gadget class="CoilMaps"/>
    <gadget class="Reconstruct"><property name="method" value="zero_filled"/></gadget>
    <gadget class="ImageFinish"/>
  </configuration>
</external></stream></configuration>
"""


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


def plain_loop(scan: Scanned, pipeline: str, lines: list) -> list[Image]:
    items = run(parse(pipeline), Scan(geometry=scan.geometry), lines)
    return [item for item in items if isinstance(item, Image)]


def failed(messages: list[Received]) -> str:
    """Check that a node told its failure once and last, and give the text."""
    assert [m.id for m in messages[-2:]] == [ERROR, CLOSE]
    assert {m.id for m in messages[:-2]} <= {IMAGE}
    assert "Traceback (most recent call last)" in messages[-2].text
    return messages[-2].text


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
        assert image.slice == int(wanted.head["slice"])
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
    scan = scanned()
    parent = start(scan.header)
    lines = upstream(scan)
    parent.send_all(lines[:5])
    if how == "in mid-message":
        parent.sock.sendall(acquisition_bytes(lines[5])[:400])
    if how == "by reset":
        parent.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        parent.sock.shutdown(socket.SHUT_RD)  # wakes the reader, which would hold the socket open
        parent.sock.close()
    else:
        parent.sock.shutdown(socket.SHUT_RDWR)
        parent.sock.close()
    assert parent.status() != 0
    assert "the parent Gadgetron vanished" in parent.log


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


def test_lines_that_never_came_are_told_and_the_images_before_them_kept(
    start: Callable[..., Parent],
) -> None:
    scan = scanned(n_slices=2)
    parent = start(scan.header)
    parent.send_all(upstream(scan, 0) + upstream(scan, 1)[:-3])
    parent.close()
    messages = parent.rest()
    assert "lines are missing in 1 slices" in failed(messages)
    assert [m.slice for m in messages if m.id == IMAGE] == [0]
    assert parent.status() != 0


def test_an_interrupt_is_an_error_to_the_parent(start: Callable[..., Parent]) -> None:
    scan = scanned(n_slices=2)
    parent = start(scan.header)
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


@pytest.fixture
def plugin(tmp_path: Path) -> list[Path]:
    """Announce `gadgets.external_header` to xsdata, as an installation of this package does."""
    about = tmp_path / "site" / "announced-0.dist-info"
    about.mkdir(parents=True)
    about.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: announced\nVersion: 0\n")
    about.joinpath("entry_points.txt").write_text(
        "[xsdata.plugins.class_types]\nannounced = gadgets.external_header\n"
    )
    return [about.parent]


# The session without a process: what it reads and writes on a socket.


def started() -> NoReturn:
    raise AssertionError("nothing may start")


NOTHING = Services(
    models=Models(),
    masks=None,  # type: ignore[arg-type]
    open_worker=lambda *_: started(),
    new_record=lambda: None,
    answer=lambda key: "Unknown query",
    wait_warm=lambda: None,
)


def converse(stream: bytes) -> tuple[list[Received], ExternalSession]:
    """Send a parent's bytes to a session in this process, and give what it answers."""
    ours, theirs = socket.socketpair()
    session = ExternalSession(theirs, NOTHING)
    thread = threading.Thread(target=session.serve)
    thread.start()
    link = Link(ours)
    ours.sendall(stream)  # never blocks for good: the session reads all of it
    messages = link.rest()
    ours.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert session.failure is not None
    return messages, session


def text_message(number: int, text: bytes) -> bytes:
    return struct.pack("<HI", number, len(text)) + text


END = struct.pack("<H", CLOSE)


@pytest.mark.parametrize(
    ("configuration", "complaint"),
    [
        (b'<?xml version="1.0"?>\n', "no readable <configuration>"),  # a node without one
        (b'<?xml version="1.0"?>\n<configuration />\n', "has no <configuration> that lists"),
        (b"<configuration><property name='a' value='1' /></configuration>", "<property>"),
        (b"<configuration><gadget class='A' /><gadget class='B' /></configuration>", "'B'"),
        (b"\xff\xfe not XML", "no readable <configuration>"),
    ],
)
def test_a_configuration_that_cannot_be_is_an_error(configuration: bytes, complaint: str) -> None:
    scan = scanned()
    stream = text_message(2, configuration) + text_message(3, scan.header)
    stream += b"".join(acquisition_bytes(line) for line in scan.lines()) + END
    messages, _ = converse(stream)
    assert complaint in failed(messages)
    assert len(messages) == 2


def test_a_header_that_cannot_be_is_an_error() -> None:
    stream = text_message(2, node_document(QUICK)) + text_message(3, b"Dummy XML header") + END
    assert "the MRD header is no XML" in failed(converse(stream)[0])


def test_ids_that_gadgetron_refuses_from_a_node_are_never_sent() -> None:
    query = struct.pack("<HQQQ", 6, 0, 1, 3) + b"key"  # would be answered with a RESPONSE
    stream = text_message(2, node_document(QUICK)) + query + END
    assert "Response is not taken from an external node" in failed(converse(stream)[0])


@pytest.mark.parametrize("dtype", ["<i2", "<i4"])
def test_pixel_types_that_gadgetron_does_not_take_from_a_node_are_never_sent(dtype: str) -> None:
    head = np.zeros(1, IMAGE_HEADER)[0]
    head["data_type"], head["matrix_size"], head["channels"] = {"<i2": 2, "<i4": 4}[dtype], 1, 1
    image = Image(head=head, data=np.zeros((1, 1, 1, 1), dtype), meta={})
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ProtocolError, match="is not taken from an external node"):
        ExternalSession(theirs, NOTHING)._send(image)


def test_settings_of_a_node_are_checked() -> None:
    configuration = node_document(QUICK, {"mask_endpoint": "ipc:///tmp/masks", "device": "cuda:1"})
    assert read_settings(configuration) == {
        "mask_endpoint": "ipc:///tmp/masks",
        "mask_keys": "",
        "device": "cuda:1",
    }
    with pytest.raises(ConfigError, match="no attribute mask_endpiont; it has mask_endpoint"):
        read_settings(node_document(QUICK, {"mask_endpiont": "tcp://127.0.0.1:1"}))
    away = OneScan(node_document(QUICK, {"mask_endpoint": "tcp://10.0.0.1:9004"}))
    with away, pytest.raises(ConfigError, match=r"mask endpoint tcp://10\.0\.0\.1:9004"):
        away.services().wait_warm()


# The closed loop, and hosts that are there already.


def test_masks_come_through_maskd_and_images_are_of_the_lines_they_ask_for(
    start: Callable[..., Parent],
) -> None:
    data, plan = closed_loop.source(1), closed_loop.sequence(deadline_ms=1000 * PATIENCE)
    token = str(uuid.uuid4())
    header = with_user_parameter(data.header, SCAN_TOKEN, token)
    hello = hello_of(data.geometry, plan, token)
    settings = {"device": "cpu"}
    lines = {int(line.head["kspace_encode_step_1"]): line for line in data.acquisitions}
    with daemon() as endpoint, SequencePort(endpoint, hello) as sequence:
        settings["mask_endpoint"] = endpoint
        parent = start(header, node_document(load(SHIPPED[0]), settings))
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
    retrospective = load("adaptive_modl_retrospective.xml").replace(
        'value="4"', f'value="{data.geometry.n_ky / len(asked)}"'
    )
    expected = run(parse(retrospective), Scan(geometry=data.geometry), data.acquisitions)
    [own] = [i for i in expected if isinstance(i, Image) and i.head["image_series_index"] == 1]
    assert image.pixels is not None
    np.testing.assert_allclose(image.pixels, own.data, rtol=1e-3, atol=1e-3 * own.data.max())


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """`mnet serve --external`: the port, and the folder of its records."""
    records = tmp_path_factory.mktemp("records")
    command = [sys.executable, "-m", "gadgets.cli", "serve", "--quiet", "--port", "0"]
    command += ["--external", "0", "--mask-endpoint", "tcp://127.0.0.1:*", "--device", "cpu"]
    command += ["--records", str(records), "--announce"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["external_port"], records
        process.terminate()


def connected(port: int, configuration: bytes, header: bytes) -> Link:
    """Connect as Gadgetron does where the node says <connect>."""
    link = Link(socket.create_connection(("127.0.0.1", port), PATIENCE))
    link.start(configuration, header)
    return link


def test_gadgetron_connects_to_a_running_host(serving: tuple[int, Path]) -> None:
    port, records = serving
    scan = scanned(n_slices=2)
    lines = upstream(scan, 0) + upstream(scan, 1)
    wrong = connected(port, node_document(QUICK.replace("zero_filled", "magic")), scan.header)
    wrong.send_all(lines)
    wrong.close()
    assert "'magic'" in failed(wrong.rest())
    wrong.sock.close()
    dying = connected(port, node_document(QUICK), scan.header)
    dying.sock.sendall(acquisition_bytes(lines[0])[:100])
    dying.sock.shutdown(socket.SHUT_RDWR)
    dying.sock.close()
    link = connected(port, node_document(QUICK), scan.header)
    link.send_all(lines)
    link.close()
    images = link.rest()[:-1]
    link.sock.close()
    for image, wanted in zip(images, plain_loop(scan, QUICK, lines), strict=True):
        assert image.pixels is not None
        np.testing.assert_allclose(image.pixels, wanted.data, rtol=1e-5, atol=1e-6)
    summaries = [json.loads(path.read_text()) for path in records.glob("*/scan.json")]
    assert sorted(one["images"] for one in summaries) == [0, 2]


# Recorded sessions of a C++ Gadgetron 4.7.2.


def recorded(pattern: str) -> list[Path]:
    return sorted(CAPTURES.glob(f"{pattern}/*gadgetron_to_python.bin"))


absent = pytest.mark.skipif(not recorded("b01_*"), reason="the recorded sessions are not here")


@absent
def test_no_recorded_session_of_another_node_hangs_or_passes_for_a_success() -> None:
    paths = recorded("b*")
    assert len(paths) > 50
    for path in paths:
        messages, _ = converse(path.read_bytes())
        assert failed(messages), path
        assert len(messages) == 2, path


def with_node(path: Path, configuration: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a recorded stream: our node's configuration, the recorded header, the other bytes."""
    stream = path.read_bytes()
    id_, n = struct.unpack_from("<HI", stream)
    assert id_ == 2
    at = 6 + n
    id_, n = struct.unpack_from("<HI", stream, at)
    assert id_ == 3
    return configuration, stream[at + 6 : at + 6 + n], stream[at + 6 + n :]


@absent
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("b01g_acquisition_passthrough_32", "b01g_acquisition_passthrough_32"),
        ("b01d_acquisition_with_waveforms", "b01d_acquisition_with_waveforms"),
        # the recorded node died of this header: the image is the recorded one of the same lines
        ("b12b_waveform_information_without_user_parameters", "b12_header_reserialised"),
    ],
)
def test_a_recorded_session_gives_an_image(
    start: Callable[..., Parent], plugin: list[Path], name: str, reference: str
) -> None:
    configuration, header, rest = with_node(recorded(name)[0], node_document(QUICK))
    assert rest == with_node(recorded(reference)[0], b"")[2]
    parent = start(header, configuration, folders=plugin)
    parent.sock.sendall(rest)
    image, end = parent.rest()
    assert (image.id, end.id) == (IMAGE, CLOSE)
    assert parent.status() == 0, parent.log
    assert_lies_as_gadgetrons(image, gadgetrons_image(reference))


@absent
def test_a_recorded_connect_session_gives_an_image(serving: tuple[int, Path]) -> None:
    configuration, header, rest = with_node(recorded("b14_connect")[0], node_document(QUICK))
    link = connected(serving[0], configuration, header)
    link.sock.sendall(rest)
    image, end = link.rest()
    link.sock.close()
    assert (image.id, end.id) == (IMAGE, CLOSE)
    assert_lies_as_gadgetrons(image, gadgetrons_image("b14_connect"))


@absent
@pytest.mark.parametrize("name", ["b01_acquisition_passthrough", "b01g_acquisition_passthrough_32"])
def test_images_of_single_coils_add_up_to_gadgetrons(serving: tuple[int, Path], name: str) -> None:
    configuration, header, rest = with_node(recorded(name)[0], node_document(QUICK))
    (n_coils,) = struct.unpack_from("<H", rest, 2 + 38)
    header, n = re.subn(rb"(?<=<receiverChannels>)\d+", b"1", header)
    assert n == 1
    squares = np.zeros(())
    for coil in range(n_coils):
        link = connected(serving[0], configuration, header)
        link.sock.sendall(of_one_coil(rest, coil))
        image, _ = link.rest()
        link.sock.close()
        assert image.pixels is not None
        squares = squares + image.pixels**2
    wanted = gadgetrons_image(name).pixels
    assert wanted is not None
    np.testing.assert_allclose(np.sqrt(squares), wanted, rtol=1e-5)


def of_one_coil(stream: bytes, coil: int) -> bytes:
    """Leave one coil in a stream of acquisitions."""
    at, out = 0, b""
    while stream[at : at + 2] != END:
        head = bytearray(stream[at : at + 342])
        n_samples, n_coils = (struct.unpack_from("<H", head, 2 + i)[0] for i in (34, 38))
        struct.pack_into("<H", head, 2 + 38, 1)
        at += 342 + 8 * n_samples * coil
        out += head + stream[at : at + 8 * n_samples]
        at += 8 * n_samples * (n_coils - coil)
    return out + END


def gadgetrons_image(name: str) -> Received:
    """Return the root sum of squares that Gadgetron made in a recorded session."""
    with (CAPTURES / name / "server_to_client.bin").open("rb") as stream:
        return read_message(stream.read)


def assert_lies_as_gadgetrons(image: Received, wanted: Received) -> None:
    """Compare with the root sum of squares of the same lines.

    The recorded coils are unlike any real ones and fit no map, so that how ours are combined is
    left to rounding. But whatever the maps are, being of unit norm they reach at most the root sum
    of squares, everywhere (Cauchy-Schwarz), and that is true of no other place or orientation.
    """
    assert image.pixels is not None
    assert wanted.pixels is not None
    a, b = image.pixels[0, 0], wanted.pixels[0, 0] * (1 + 1e-5)
    assert a.shape == b.shape
    assert (a <= b).all()
    assert (a / b).max() > 0.9, "and not by being dark"
    turned = [a.T, a.T[::-1], a[::-1], a[:, ::-1], a[::-1, ::-1]]
    for other in turned + [np.roll(a, by, axis) for by in (-1, 1) for axis in (0, 1)]:
        assert (other > b).mean() > 0.03
    series = slice(128, 130)  # ours is 1, theirs 0
    for part in (slice(0, 128), slice(130, 194)):
        assert image.head[part] == wanted.head[part]
    assert image.head[series] != wanted.head[series]


# What the shipped files say.


@pytest.mark.parametrize("name", SHIPPED)
def test_gadgetron_s_nodes_stand_in_front_and_our_node_repeats_none_of_them(name: str) -> None:
    root = ElementTree.fromstring(load(name))
    stream = root.find("stream")
    assert stream is not None
    assert [(node.tag, node.findtext("classname")) for node in stream] == [
        ("gadget", "NoiseAdjustGadget"),
        ("gadget", "AsymmetricEchoAdjustROGadget"),
        ("gadget", "RemoveROOversamplingGadget"),
        ("external", None),
    ]
    ours = parse(node_pipeline(node_document(load(name))))
    assert [type(gadget).__name__ for gadget in ours] == [
        "PredictMask",
        "AccumulateFrame",
        "CoilMaps",
        "Reconstruct",
        "ImageFinish",
    ]
    # our own host takes the same file and puts its equivalents in front
    assert parse(load(name))[-5:] == ours
    assert read_settings(node_document(load(name)))["mask_endpoint"] == "tcp://127.0.0.1:9004"


def test_the_variants_differ_in_mode_and_in_who_starts_the_node() -> None:
    modes = [parse(load(name))[2].mode for name in SHIPPED]  # type: ignore[attr-defined]
    assert modes == ["prospective", "retrospective", "prospective"]
    nodes = [ElementTree.fromstring(load(name)).find("stream/external") for name in SHIPPED]
    how = [node[0].tag for node in nodes if node is not None]
    assert how == ["execute", "execute", "connect"]
