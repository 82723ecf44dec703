"""One connection at a time, in this process: who is told what, and what is on record."""

import json
import socket
import struct
from pathlib import Path

import pytest

from gadgets.host.session import CLIENT, PARENT
from gadgets.mrd.items import Acquisition
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
from gadgets.records.reader import read_record
from gadgets.records.writer import SUMMARY, Record
from tests.gadgets.helpers.external_parent import (
    CLOSE,
    Link,
    acquisition_bytes,
    failed,
    upstream,
)
from tests.gadgets.helpers.sessions import served, services
from tests.gadgets.helpers.synthetic import scanned

FRAMES = b'<configuration><gadget class="AccumulateFrame"/></configuration>'


def heard(sock: socket.socket) -> list[Message]:
    """Return all that comes, up to the end of the connection."""
    data = bytearray()
    while part := sock.recv(1 << 16):
        data += part
    read, messages = buffer_reader(bytes(data)), []
    while not messages or not isinstance(messages[-1], Close):
        messages.append(read_message(read))
    return messages


@pytest.mark.parametrize(
    "error", [RuntimeError("no worker"), OSError(24, "Too many open files"), EOFError("nothing")]
)
def test_a_failure_of_any_kind_is_told_and_what_still_comes_is_recorded(
    error: Exception, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise error

    scan = scanned()
    near, far = socket.socketpair()
    shared = services(open_worker=broken, new_record=lambda: Record.create(tmp_path, "scan"))
    with near, served(far, shared, CLIENT) as failures:
        near.sendall(write_message(ConfigFile("zero_filled.xml")))
        near.sendall(write_message(Header(scan.header)))
        for line in scan.lines():
            near.sendall(write_message(line))
        near.sendall(write_message(Close()))
        told, end = heard(near)
    assert failures == [error]
    assert isinstance(told, Text)
    assert told.text.startswith(f"ERROR: {type(error).__name__}: ")
    assert end == Close()
    kept = [m for m in read_record(tmp_path / "scan") if isinstance(m, Acquisition)]
    assert [write_message(m) for m in kept] == [write_message(line) for line in scan.lines()]
    assert type(error).__name__ in json.loads((tmp_path / "scan" / SUMMARY).read_text())["error"]


def test_a_client_that_hangs_up_before_it_says_anything_is_told_nothing() -> None:
    near, far = socket.socketpair()
    with near, served(far, services(), CLIENT) as failures:
        near.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""
    (failure,) = failures
    assert "the client vanished" in str(failure)


def test_a_parent_is_told_of_a_slice_whose_lines_came_together_and_not_all() -> None:
    scan = scanned(n_slices=2)
    first, second = upstream(scan, 0), upstream(scan, 1)
    lines = [
        first[0],
        *first,
        *second[:-3],
    ]  # the second slice begins with a burst: 1 + 32 lie before
    near, far = socket.socketpair()
    near.sendall(struct.pack("<HI", 2, len(FRAMES)) + FRAMES)
    near.sendall(struct.pack("<HI", 3, len(scan.header)) + scan.header)
    near.sendall(b"".join(map(acquisition_bytes, lines)) + struct.pack("<H", CLOSE))
    with near, served(far, services(), PARENT) as failures:
        messages = Link(near).rest()
    assert "lines are missing in 1 images" in failed(messages)
    assert "the first is of slice 1" in str(failures[0])


def test_lines_before_the_header_are_an_error_that_names_them() -> None:
    scan = scanned()
    near, far = socket.socketpair()
    with near, served(far, services(), CLIENT) as failures:
        for message in (ConfigFile("cg_sense.xml"), scan.lines()[0], Header(scan.header), Close()):
            near.sendall(write_message(message))
        told, end = heard(near)
    assert isinstance(told, Text)
    assert "message 1008 ACQUISITION before the MRD header" in told.text
    assert isinstance(end, Close)
    assert len(failures) == 1
