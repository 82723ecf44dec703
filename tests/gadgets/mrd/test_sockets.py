import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import Flag, ImageKey, flags_of, image_key
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.items import Acquisition
from gadgets.mrd.messages import Close, Message, buffer_reader, read_message, write_message
from gadgets.mrd.sockets import SocketReader, put_all
from gadgets.pipeline.intake import OUT_OF_RANGE, intake
from gadgets.pipeline.scan import Scan
from tests.gadgets.helpers.synthetic import acquisition


def lines(sizes: list[int]) -> list[Message]:
    rng = np.random.default_rng(0)
    found: list[Message] = []
    for i, n in enumerate(sizes):
        data = rng.normal(size=(3, n)) + 1j * rng.normal(size=(3, n))
        found.append(acquisition(data, kspace_encode_step_1=i, slice=i % 5))
    return [*found, Close()]


def sent_in_pieces(data: bytes, pieces: list[int], sock: socket.socket) -> threading.Thread:
    def send() -> None:
        start, i = 0, 0
        while start < len(data):
            n = pieces[i % len(pieces)]
            sock.sendall(data[start : start + n])
            start, i = start + n, i + 1
        sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.sampled_from([1, 7, 160, 171, 640, 3000]), min_size=1, max_size=12),
    pieces=st.lists(st.sampled_from([1000, 4095, 4097, 20000, 1 << 20]), min_size=1, max_size=4),
)
def test_a_socket_gives_the_messages_that_memory_gives(sizes: list[int], pieces: list[int]) -> None:
    data = b"".join(write_message(message) for message in lines(sizes))
    near, far = socket.socketpair()
    with near, far:
        thread = sent_in_pieces(data, pieces, far)
        over_socket, plain = SocketReader(near), buffer_reader(data)
        for _ in [*sizes, None]:
            got, expected = read_message(over_socket), read_message(plain)
            assert write_message(got) == write_message(expected)
        with pytest.raises(EOFError):
            over_socket(1)
        thread.join()


def test_what_was_read_ahead_does_not_change_with_what_follows() -> None:
    near, far = socket.socketpair()
    with near, far:
        read = SocketReader(near)
        far.sendall(b"ab")
        first = read(1)
        far.sendall(b"cd")
        assert bytes(read(3)) == b"bcd"
        assert bytes(first) == b"a"


def test_the_end_of_a_stream_says_how_much_is_missing() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"x" * 10)
        far.close()
        read = SocketReader(near)
        read(4)
        with pytest.raises(EOFError, match="94 of 100 bytes missing"):
            read(100)


@pytest.mark.parametrize("at_once", [1, 2, 5, 1000])
def test_buffers_arrive_whole_however_little_is_taken_at_once(at_once: int) -> None:
    taken = bytearray()

    def put(buffers: list[memoryview]) -> int:
        data = b"".join(buffers)[:at_once]
        taken.extend(data)
        return len(data)

    assert put_all(put, [b"abc", b"", bytearray(b"de"), memoryview(b"fghij")]) == 10
    assert taken == b"abcdefghij"


def test_buffers_go_to_files_as_well(tmp_path: Path) -> None:
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        put: Callable[[list[memoryview]], int] = lambda buffers: os.writev(file, buffers)  # noqa: E731
        put_all(put, [b"abc", np.arange(3, dtype=np.uint8).data])
    finally:
        os.close(file)
    assert (tmp_path / "file").read_bytes() == b"abc\0\1\2"


def test_fields_read_at_once_are_those_read_by_name() -> None:
    names = ("encoding_space_ref", "slice", "contrast", "phase", "repetition", "set")
    others = {"kspace_encode_step_1": 71, "kspace_encode_step_2": 72, "average": 73, "segment": 74}
    flags = Flag.REVERSE | Flag.MASK_CALIBRATION
    values = {name: 3 + i for i, name in enumerate(names)}
    header = acquisition(np.zeros((2, 4)), **values, **others, flags=flags).header
    assert image_key(header) == ImageKey(*(int(header[name]) for name in names))
    assert flags_of(header) == int(header["flags"]) == flags


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (0, True),
        (9e14, True),
        (2e15, False),
        (3e38, False),
        (1e-45, True),
        (np.inf, False),
        (-np.inf, False),
        (np.nan, False),
    ],
)
@pytest.mark.parametrize("part", [1, 1j])
def test_lines_are_dropped_where_a_sample_is_out_of_range_and_only_there(
    value: float, part: complex, kept: bool
) -> None:
    data = np.ones((2, 8), np.complex64)
    if part == 1:
        data.real[1, 5] = value
    else:
        data.imag[1, 5] = value
    xml = header_xml(
        encoded=(8, 8, 1), encoded_fov=(8, 8, 5), recon=(8, 8, 1), recon_fov=(8, 8, 5), n_coils=2
    )
    scan = Scan(geometry=Geometry.parse(xml))
    header = acquisition(data).header
    items = list(intake(scan, [Acquisition(header=header, data=data)]))
    assert len(items) == kept
    assert scan.counts[OUT_OF_RANGE] == (not kept)
