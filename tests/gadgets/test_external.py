"""Our node under a stand-in for the C++ Gadgetron: what leaves it, and how it fails."""

import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from external_parent import (
    CLOSE,
    ERROR,
    IMAGE,
    Parent,
    Received,
    acquisition_bytes,
    node_document,
    upstream,
)
from synthetic import Scanned, changed, scanned

from gadgets.gadget import Scan, run
from gadgets.items import Image
from gadgets.pipeline import parse

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
