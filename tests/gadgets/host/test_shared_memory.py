import os
import pickle
import socket
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gadgets.errors import ProtocolError
from gadgets.mrd.header_layouts import IMAGE_HEADER, WAVEFORM_HEADER, ImageKey
from gadgets.mrd.items import Acquisition, Burst, Frame, Image, Item, Mask, PreScan, Waveform
from gadgets.worker.shared_memory import SharedMemoryPipe, pack, unpack
from tests.gadgets.helpers.synthetic import acquisition

KEY = ImageKey(0, 3, 1, 0, 2, 0)
RNG = np.random.default_rng(1)


def complex_(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) + 1j * RNG.normal(size=shape)).astype(np.complex64)


def header(dtype: np.dtype[Any], **values: Any) -> np.void:
    record = np.zeros(1, dtype)[0]
    for name, value in values.items():
        record[name] = value
    return record


EVERY_OTHER = np.array([True, False] * 3)
LINE = acquisition(complex_(3, 16), kspace_encode_step_1=7, flags=1 << 63, user_float=np.pi)
ITEMS: dict[str, Item] = {
    "acquisition": LINE,
    "acquisition with trajectory": Acquisition(
        header=LINE.header, data=LINE.data, trajectory=np.ones((16, 2), np.float32), hybrid=True
    ),
    "acquisition without samples": Acquisition(header=LINE.header, data=complex_(3, 0)),
    "waveform": Waveform(
        header=header(WAVEFORM_HEADER, channels=2, sample_time_us=2.5, waveform_id=9),
        data=np.arange(8, dtype=np.uint32).reshape(2, 4),
    ),
    "prescan": PreScan(key=KEY, lines=complex_(2, 5, 4), counters=np.arange(4)),
    "mask": Mask(
        key=KEY,
        counters=np.array([1, 5, 70000]),
        reason="größer",
        sent=True,
        enforced=False,
        fallback=np.array([], np.int64),
        model="abc",
        seconds=0.1,
    ),
    "mask without lines or fallback": Mask(
        key=KEY, counters=np.array([], np.int64), reason="", sent=False, enforced=False
    ),
    "frame": Frame(
        key=KEY,
        header=LINE.header,
        kspace=complex_(2, 5, 6) * EVERY_OTHER,
        mask=EVERY_OTHER,
        calibration=np.zeros(6, bool),
        csm=complex_(2, 5, 6).transpose(0, 2, 1),  # not contiguous
        meta={"a": "1", "b": ""},
    ),
    "finished frame": Frame(
        key=KEY,
        header=LINE.header,
        kspace=complex_(0, 0, 0),
        mask=np.zeros(0, bool),
        calibration=np.zeros(0, bool),
        image=complex_(5, 6),
    ),
    "image": Image(
        header=header(IMAGE_HEADER, image_index=7, field_of_view=(1.5, 2, 3)),
        data=np.arange(12, dtype=np.uint16).reshape(1, 1, 3, 4),
        meta={"DataRole": "Image", "Ä": "ö\n"},
    ),
}


@pytest.fixture
def ends() -> Iterator[tuple[SharedMemoryPipe, SharedMemoryPipe]]:
    a, b = (SharedMemoryPipe(sock) for sock in socket.socketpair())
    yield a, b
    a.close()
    b.close()


def through(ends: tuple[SharedMemoryPipe, SharedMemoryPipe], item: Item) -> Item:
    a, b = ends
    body, arrays = pack(item)
    a.send("item", body, arrays)
    kind, received, parts = b.receive()
    assert kind == "item"
    return unpack(received, parts)


def assert_same(a: Item, b: Item) -> None:
    assert type(a) is type(b)
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert (x.shape, x.dtype) == (y.shape, y.dtype), field.name
            np.testing.assert_array_equal(x, y)
        elif isinstance(x, np.void):
            assert (x.dtype, x.tobytes()) == (y.dtype, y.tobytes())
        else:
            assert (type(x), x) == (type(y), y), field.name


@pytest.mark.parametrize("name", ITEMS)
def test_every_item_comes_out_as_it_went_in(
    ends: tuple[SharedMemoryPipe, SharedMemoryPipe], name: str
) -> None:
    assert_same(ITEMS[name], through(ends, ITEMS[name]))


def test_of_a_frame_only_what_was_measured_crosses() -> None:
    frame = ITEMS["frame"]
    assert isinstance(frame, Frame)
    body, arrays = pack(frame)
    assert arrays[body["fields"]["kspace"]["array"]].nbytes == frame.kspace.nbytes // 2


def test_every_kind_of_item_is_tried() -> None:
    kinds = set(Item.__args__) - {Burst}  # type: ignore[attr-defined]  # lines end in the front
    assert {type(item) for item in ITEMS.values()} == kinds


def test_nothing_is_pickled(
    ends: tuple[SharedMemoryPipe, SharedMemoryPipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("pickled")

    for name in ("dumps", "dump", "loads", "load", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for item in ITEMS.values():
        through(ends, item)


def test_objects_cannot_cross(ends: tuple[SharedMemoryPipe, SharedMemoryPipe]) -> None:
    with pytest.raises(ValueError, match="OBJECT"):
        ends[0].send("x", {}, [np.array([object()])])


def test_messages_keep_their_order_and_bodies(
    ends: tuple[SharedMemoryPipe, SharedMemoryPipe],
) -> None:
    a, b = ends
    a.send("one")
    a.send("two", {"n": 2}, [np.arange(3), np.zeros((0, 4)), np.float32([[1]])])
    a.send("three", {"text": "ü" * 3})
    assert b.receive() == ("one", {}, [])
    kind, body, arrays = b.receive()
    assert (kind, body) == ("two", {"n": 2})
    assert [array.tolist() for array in arrays] == [[0, 1, 2], [], [[1.0]]]
    assert b.receive()[:2] == ("three", {"text": "üüü"})


def test_an_array_is_a_copy_of_what_was_sent(
    ends: tuple[SharedMemoryPipe, SharedMemoryPipe],
) -> None:
    a, b = ends
    array = np.arange(4.0)
    a.send("x", {}, [array])
    array[:] = -1
    (received,) = b.receive()[2]
    assert received.tolist() == [0, 1, 2, 3]
    received[:] = 7  # torch wants memory that it may write to
    assert array.tolist() == [-1] * 4


def test_arrays_larger_than_the_socket_s_buffer_do_not_block(
    ends: tuple[SharedMemoryPipe, SharedMemoryPipe],
) -> None:
    a, b = ends
    large = np.zeros(4 << 20)
    a.send("x", {}, [large])  # nobody has received yet
    assert b.receive()[2][0].shape == large.shape


def test_many_threads_may_send(ends: tuple[SharedMemoryPipe, SharedMemoryPipe]) -> None:
    a, b = ends

    def send(number: int) -> None:
        for i in range(20):
            a.send("x", {"n": number, "i": i, "pad": "p" * 5000}, [np.full(100, number)])

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    received = []
    for _ in range(80):
        _, body, (array,) = b.receive()
        assert (array == body["n"]).all()
        received.append((body["n"], body["i"]))
    for thread in threads:
        thread.join()
    for n in range(4):
        assert [i for m, i in received if m == n] == list(range(20))


def test_the_other_end_gone_is_an_end_of_file_or_an_os_error(
    ends: tuple[SharedMemoryPipe, SharedMemoryPipe],
) -> None:
    a, b = ends
    b.send("last", {}, [np.arange(3)])
    b.close()
    assert a.receive()[0] == "last"
    with pytest.raises(EOFError):
        a.receive()
    with pytest.raises(OSError):  # noqa: PT011  which one depends on the system
        for _ in range(3):
            a.send("x", {}, [np.arange(3)])


def test_an_end_that_dies_within_a_message_is_an_end_of_file() -> None:
    left, right = socket.socketpair()
    pipe = SharedMemoryPipe(right)
    left.sendall(b"\x10\x00\x00\x00\x00{")
    left.close()
    with pytest.raises(EOFError):
        pipe.receive()
    pipe.close()


def test_closing_twice_does_no_harm(ends: tuple[SharedMemoryPipe, SharedMemoryPipe]) -> None:
    ends[0].close()
    ends[0].close()
    with pytest.raises(EOFError):
        ends[1].receive()


def test_an_unknown_item_is_refused() -> None:
    with pytest.raises(ProtocolError, match="item 'Secret', expected one of Acquisition"):
        unpack({"item": "Secret", "fields": {}}, [])


def n_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts files as Linux shows them")
def test_no_file_descriptor_is_left_behind(ends: tuple[SharedMemoryPipe, SharedMemoryPipe]) -> None:
    through(ends, ITEMS["frame"])
    before = n_files()
    for _ in range(200):
        through(ends, ITEMS["frame"])
    assert n_files() == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts files as Linux shows them")
def test_a_message_cut_short_leaves_no_file_descriptor_behind() -> None:
    before = n_files()
    left, right = socket.socketpair()
    pipe = SharedMemoryPipe(right)
    with (Path("/proc/self/exe")).open("rb") as file:
        socket.send_fds(left, [b"\x10\x00\x00\x00\x01"], [file.fileno()])
    left.close()
    with pytest.raises(EOFError):
        pipe.receive()
    pipe.close()
    assert n_files() == before


def test_a_file_that_did_not_arrive_is_an_error_and_no_empty_array() -> None:
    left, right = socket.socketpair()
    pipe = SharedMemoryPipe(right)
    text = b'{"kind":"x","body":{},"arrays":[{"shape":[2],"dtype":"<f8","offset":0}]}'
    left.sendall(len(text).to_bytes(4, "little") + b"\x01" + text)
    with pytest.raises(OSError, match="descriptor"):
        pipe.receive()
    pipe.close()
    left.close()
