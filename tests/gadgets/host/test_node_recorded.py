"""Our node in a host that is there already, fed with every recorded session of Gadgetron 4.7.2."""

import json
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.gadgets.helpers import processes
from tests.gadgets.helpers.external_parent import (
    CAPTURES,
    CLOSE,
    ERROR,
    IMAGE,
    PATIENCE,
    QUICK,
    Link,
    Received,
    acquisition_bytes,
    failed,
    node_document,
    plain_loop,
    read_message,
    upstream,
)
from tests.gadgets.helpers.synthetic import scanned

RECORDED = sorted(
    str(path.relative_to(CAPTURES).with_suffix(""))
    for path in CAPTURES.glob("b*/*gadgetron_to_python.bin")
)
absent = pytest.mark.skipif(not RECORDED, reason="the recorded sessions are not here")
END = struct.pack("<H", CLOSE)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """`mnet serve --external`: the port, and the folder of its records."""
    records = tmp_path_factory.mktemp("records")
    options = ("--quiet", "--external", "0", "--records", str(records))
    with processes.serving(*options) as (_, ports):
        yield ports["external_port"], records


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


# What becomes of the recorded streams, by the longest prefix of their names. Lines give an image,
# whatever the recorded node did with them; what other nodes make of lines is refused.
OUTCOME = {
    "b01": "image",
    "b02": "message id 1050",
    "b03": "message id 1023",
    "b04": "message id 1024",
    "b05": "image-to-image sessions are not supported",
    "b06": "image",
    "b07": "image",
    "b07g": "image-to-image sessions are not supported",
    "b07h": "image-to-image sessions are not supported",
    "b08": "image",
    "b09": "image",
    "b10": "image",
    "b11_two_externals/external1": "image-to-image sessions are not supported",
    "b11_two_externals/external2": "image",
    "b12": "image",
    "b13": "image",
    "b14": "image",
}
# Sessions whose node gave all lines back, so that Gadgetron's image is of all that it got.
PASSED_ON = (
    "b01_acquisition_passthrough",
    "b01d_acquisition_with_waveforms",
    "b01e_acquisition_with_trajectory",
    "b01f_class_target",
    "b01g_acquisition_passthrough_32",
    "b10_own_readers_writers",
)


def recorded(name: str) -> tuple[bytes, bytes]:
    """Return the header and the stream behind it."""
    stream = (CAPTURES / f"{name}.bin").read_bytes()
    texts, at = {}, 0
    for _ in range(2):
        id_, n = struct.unpack_from("<HI", stream, at)
        texts[id_] = stream[at + 6 : at + 6 + n]
        at += 6 + n
    assert list(texts) == [2, 3]
    return texts[3], stream[at:]


def gadgetrons_image(stream: bytes) -> Received:
    """Return the root sum of squares that Gadgetron made of the same lines."""
    for name in PASSED_ON:
        if recorded(f"{name}/gadgetron_to_python")[1] == stream:
            with (CAPTURES / name / "server_to_client.bin").open("rb") as file:
                return read_message(file.read)
    raise LookupError("no recorded image is of these lines")


@absent
@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_session_gives_an_image_of_its_lines_or_is_refused(
    serving: tuple[int, Path], name: str
) -> None:
    outcome = OUTCOME[max((prefix for prefix in OUTCOME if name.startswith(prefix)), key=len)]
    header, stream = recorded(name)
    messages = answered(serving, header, stream)
    if outcome == "image":
        image, end = messages
        assert (image.id, end.id) == (IMAGE, CLOSE)
        assert_lies_as_gadgetrons(image, gadgetrons_image(stream))
    else:
        assert outcome in failed(messages)
        assert len(messages) == 2


def answered(serving: tuple[int, Path], header: bytes, stream: bytes) -> list[Received]:
    """Return what the running host's node makes of a recorded stream."""
    link = connected(serving[0], node_document(QUICK), header)
    link.sock.sendall(stream)
    messages = link.rest()
    link.sock.close()
    return messages


@absent
@pytest.mark.parametrize("name", ["b01_acquisition_passthrough", "b01g_acquisition_passthrough_32"])
def test_images_of_single_coils_add_up_to_gadgetrons(serving: tuple[int, Path], name: str) -> None:
    header, stream = recorded(f"{name}/gadgetron_to_python")
    (n_coils,) = struct.unpack_from("<H", stream, 2 + 38)
    header, n = re.subn(rb"(?<=<receiverChannels>)\d+", b"1", header)
    assert n == 1
    squares = np.zeros(())
    for coil in range(n_coils):
        image, _ = answered(serving, header, of_one_coil(stream, coil))
        assert image.pixels is not None
        squares = squares + image.pixels**2
    wanted = gadgetrons_image(stream).pixels
    assert wanted is not None
    np.testing.assert_allclose(np.sqrt(squares), wanted, rtol=1e-5)


def of_one_coil(stream: bytes, coil: int) -> bytes:
    """Leave one coil in a stream of acquisitions."""
    at, out = 0, b""
    while stream[at : at + 2] != END:
        header = bytearray(stream[at : at + 342])
        n_samples, n_coils = (struct.unpack_from("<H", header, 2 + i)[0] for i in (34, 38))
        struct.pack_into("<H", header, 2 + 38, 1)
        at += 342 + 8 * n_samples * coil
        out += header + stream[at : at + 8 * n_samples]
        at += 8 * n_samples * (n_coils - coil)
    return out + END


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
        assert image.header[part] == wanted.header[part]
    assert image.header[series] != wanted.header[series]


@absent
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("b06_python_error8_drained", [ERROR, CLOSE]),
        ("b06b_python_two_errors", [ERROR, ERROR, CLOSE]),
        ("b05_image_passthrough", [IMAGE, CLOSE]),
        ("b05d_image_with_meta", [IMAGE, IMAGE, CLOSE]),
        ("b09_image_from_python_complex128", [IMAGE, CLOSE]),
        ("b09_image_from_python_meta_unicode", [IMAGE, CLOSE]),
        ("b09_image_from_python_uint32", [IMAGE, CLOSE]),
    ],
)
def test_the_stand_in_parent_reads_what_recorded_nodes_said(name: str, said: list[int]) -> None:
    with (CAPTURES / name / "python_to_gadgetron.bin").open("rb") as file:
        assert [read_message(file.read).id for _ in said] == said
        assert not file.read()
