import io
import json
import socket
import struct
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gadgets.errors import ProtocolError
from gadgets.mrd.header_layouts import ACQUISITION_HEADER, IMAGE_HEADER, WAVEFORM_HEADER, Flag
from gadgets.mrd.image_attributes import meta_from_xml, meta_to_xml
from gadgets.mrd.item_bytes import MAX_TEXT, PIXEL_TYPES, Read
from gadgets.mrd.items import Acquisition, Image, Waveform
from gadgets.mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Dependency,
    Error,
    Feedback,
    Header,
    Message,
    Query,
    Response,
    Text,
    buffer_reader,
    message_buffers,
    read_message,
    write_message,
)
from gadgets.mrd.sockets import SocketReader

with warnings.catch_warnings():  # importing ismrmrd changes the warning filters
    import ismrmrd

READABLE = {1, 2, 3, 4, 5, 6, 7, 8, 1008, 1019, 1022, 1026, 1028}


def acquisition(
    channels: int = 3, samples: int = 8, dimensions: int = 0, **fields: Any
) -> Acquisition:
    rng = np.random.default_rng(7)
    header = np.zeros(1, ACQUISITION_HEADER)[0]
    values = {
        "version": 1,
        "number_of_samples": samples,
        "active_channels": channels,
        "trajectory_dimensions": dimensions,
        "position": (1.5, -2, 3),
        "kspace_encode_step_1": 77,
        "user_int": range(-4, 4),
        **fields,
    }
    for name, value in values.items():
        header[name] = tuple(value) if isinstance(value, range) else value
    data = rng.standard_normal((channels, samples, 2), np.float32).view(np.complex64)[..., 0]
    trajectory = rng.standard_normal((samples, dimensions), np.float32) if dimensions else None
    return Acquisition(header=header, data=data, trajectory=trajectory)


def waveform() -> Waveform:
    header = np.zeros(1, WAVEFORM_HEADER)[0]
    header["channels"], header["number_of_samples"], header["flags"] = 2, 5, 1 << 40
    return Waveform(header=header, data=np.arange(10, dtype=np.uint32).reshape(2, 5))


def image(data_type: int = 5, **meta: str) -> Image:
    header = np.zeros(1, IMAGE_HEADER)[0]
    header["data_type"], header["matrix_size"], header["channels"] = data_type, (4, 3, 2), 2
    data = np.arange(48).reshape(2, 2, 3, 4).astype(PIXEL_TYPES[data_type])
    return Image(header=header, data=data, meta=meta)


SMALL: list[tuple[Message, bytes]] = [
    (ConfigFile("default.xml"), b"\x01\x00default.xml" + bytes(1024 - 11)),
    (ConfigScript(b"<c/>"), b"\x02\x00\x04\x00\x00\x00<c/>"),
    (Header(b"<h/>\0"), b"\x03\x00\x05\x00\x00\x00<h/>\0"),
    (Close(), b"\x04\x00"),
    (Text("é"), b"\x05\x00\x02\x00\x00\x00\xc3\xa9"),
    (Query(9, "a"), b"\x06\x00" + bytes(8) + struct.pack("<QQ", 9, 1) + b"a"),
    (Response(9, "b"), b"\x07\x00" + struct.pack("<QQ", 9, 1) + b"b"),
    (Error("no"), b"\x08\x00" + struct.pack("<Q", 2) + b"no"),
    (Dependency(b"<d/>"), b"\xfb\x03" + struct.pack("<Q", 4) + b"<d/>"),
    (Feedback("m", b"\0\1"), b"\x04\x04\x02\x00\x00\x00m\0\x02\x00\x00\x00\0\1"),
]
ITEMS: list[Message] = [
    acquisition(),
    acquisition(channels=1, samples=0),
    acquisition(dimensions=3),
    waveform(),
    image(),
    image(2, ImageComments='<&"> é', empty=""),
    *(image(kind) for kind in PIXEL_TYPES),
]
ALL = [message for message, _ in SMALL] + ITEMS


def assert_equal(got: Message, expected: Message) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, Acquisition | Image | Waveform):
        assert isinstance(got, Acquisition | Image | Waveform)
        ignored = {"attribute_string_len"}
        for name in set(expected.header.dtype.names or ()) - ignored:
            np.testing.assert_array_equal(got.header[name], expected.header[name], name)
        assert got.data.dtype == expected.data.dtype
        np.testing.assert_array_equal(got.data, expected.data)
        if isinstance(expected, Acquisition) and expected.trajectory is not None:
            np.testing.assert_array_equal(got.trajectory, expected.trajectory)  # type: ignore[union-attr]
        if isinstance(expected, Image):
            assert got.meta == expected.meta  # type: ignore[union-attr]
    else:
        assert got == expected


def bytewise(data: bytes) -> Read:
    """Hand bytes on through a socket-like reader that never gives more than one at a time."""
    stream = io.BytesIO(data)

    def read(n: int) -> bytes:
        parts = [stream.read(1) for _ in range(n)]
        if b"" in parts:
            raise EOFError(f"{parts.count(b'')} of {n} bytes missing")
        return b"".join(parts)

    return read


@pytest.mark.parametrize(("message", "expected"), SMALL)
def test_small_messages_have_the_documented_bytes(message: Message, expected: bytes) -> None:
    assert write_message(message) == expected
    assert read_message(buffer_reader(expected)) == message


@pytest.mark.parametrize("message", ALL)
@pytest.mark.parametrize("reader", [buffer_reader, bytewise])
def test_a_message_reads_back_and_leaves_what_follows(message: Message, reader: Any) -> None:
    read = reader(write_message(message) + b"rest")
    assert_equal(read_message(read), message)
    assert bytes(read(4)) == b"rest"


@pytest.mark.parametrize("message", ALL)
def test_a_stream_that_ends_inside_a_message_raises_eof(message: Message) -> None:
    data = write_message(message)
    for end in {*range(0, len(data), max(1, len(data) // 50)), len(data) - 1}:
        with pytest.raises(EOFError, match="missing"):
            read_message(buffer_reader(data[:end]))


@given(st.lists(st.sampled_from(ALL), max_size=6))
def test_a_sequence_of_messages_keeps_its_order(messages: list[Message]) -> None:
    data = b"".join(map(write_message, messages))
    read = buffer_reader(data)
    for message in messages:
        assert_equal(read_message(read), message)
    with pytest.raises(EOFError):
        read(1)


def test_samples_are_read_and_written_without_a_copy() -> None:
    data = write_message(acquisition())
    message = read_message(buffer_reader(data))
    assert isinstance(message, Acquisition)
    assert np.shares_memory(message.data, np.frombuffer(data, np.uint8))
    assert np.shares_memory(message.data, np.asarray(message_buffers(message)[-1]))


def test_texts_lose_the_nul_that_some_senders_count() -> None:
    assert read_message(buffer_reader(b"\x05\x00\x03\x00\x00\x00ab\0")) == Text("ab")


def largest_head() -> bytes:
    header = np.zeros(1, ACQUISITION_HEADER)
    header["number_of_samples"] = header["active_channels"] = 65535
    return header.tobytes()


def nhlbi(values: list[int], bits: int, scale: float = 8.0, count: int | None = None) -> bytes:
    """One channel of compressed samples by hand: integers below one another, lowest bit first."""
    packed = sum((value & (1 << bits) - 1) << i * bits for i, value in enumerate(values))
    header = np.zeros(1, ACQUISITION_HEADER)[0]
    header["flags"] = Flag.COMPRESSION_NHLBI | Flag.REVERSE
    header["active_channels"], header["number_of_samples"] = 1, len(values) // 2
    body = struct.pack("<QfB", len(values) if count is None else count, scale, bits)
    body += packed.to_bytes(-(-len(values) * bits // 8), "little")
    return struct.pack("<H", 1008) + header.tobytes() + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("bits", [2, 3, 5, 8, 12, 13, 24, 32])
def test_nhlbi_compressed_samples_are_integers_over_the_scale(bits: int) -> None:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    values = [low, high, 0, -1, 1, low + 1, high, low]
    read = buffer_reader(nhlbi(values, bits) + b"next")
    message = read_message(read)
    assert isinstance(message, Acquisition)
    got = message.data.view(np.float32)[0]
    np.testing.assert_array_equal(got, np.array(values, np.float64).astype(np.float32) / 8)
    assert int(message.header["flags"]) == Flag.REVERSE, "what follows sees plain samples"
    assert bytes(read(4)) == b"next"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x4d\x00", "77.*unknown.*1008 ACQUISITION"),
        (struct.pack("<H", 1001), "1001.*deprecated"),
        (struct.pack("<H", 1050), "1050.*bucket"),
        (struct.pack("<HI", 5, MAX_TEXT + 1), "16777217 bytes"),
        (struct.pack("<HQ", 8, 1 << 63), "error of 9223372036854775808"),
        (struct.pack("<HQQQ", 6, 1, 0, 0), "reserved"),
        (b"\xf0\x03" + largest_head(), "34358689800 bytes"),
        (write_message(acquisition(flags=Flag.COMPRESSION_ZFP)), "ZFP"),
        (nhlbi([1, 2], bits=4, count=3), "3 values of 4 bits"),
        (nhlbi([1, 2], bits=33), "values of 33 bits"),
        (nhlbi([1, 2], bits=8, scale=0.0), "scale 0"),
    ],
)
def test_what_breaks_the_protocol_is_named(data: bytes, word: str) -> None:
    with pytest.raises(ProtocolError, match=word):
        read_message(buffer_reader(data))


def test_an_image_of_unknown_type_or_with_broken_attributes_is_refused() -> None:
    data = bytearray(write_message(image(5, a="b")))
    data[4:6] = b"\x63\x00"
    with pytest.raises(ProtocolError, match="99 is unknown"):
        read_message(buffer_reader(data))
    with pytest.raises(ProtocolError, match="no XML"):
        meta_from_xml(b"<ismrmrdMeta><meta>")
    with pytest.raises(ProtocolError, match="ismrmrdHeader"):
        meta_from_xml(b"<ismrmrdHeader/>")


def test_a_header_that_contradicts_its_data_is_not_sent() -> None:
    good = acquisition()
    with pytest.raises(ProtocolError, match=r"\(3, 8\).*\(2, 8\)"):
        write_message(Acquisition(header=good.header, data=good.data[:2]))
    with pytest.raises(ProtocolError, match="trajectory"):
        write_message(
            Acquisition(header=good.header, data=good.data, trajectory=np.ones((8, 2), "f4"))
        )
    with pytest.raises(ProtocolError, match="hybrid"):
        write_message(Acquisition(header=good.header, data=good.data, hybrid=True))
    with pytest.raises(ProtocolError, match="float64"):
        write_message(Image(header=image().header, data=image(6).data))
    with pytest.raises(ProtocolError, match="no message"):
        write_message("text")  # type: ignore[arg-type]


def test_complex128_samples_are_sent_as_the_protocol_has_them() -> None:
    good = acquisition()
    wide = Acquisition(header=good.header, data=good.data.astype(np.complex128))  # type: ignore[arg-type]
    assert write_message(wide) == write_message(good)


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_attributes_survive_where_xml_can_carry_them(meta: dict[str, str]) -> None:
    once = meta_from_xml(meta_to_xml(meta) + b"\0")
    assert len(once) <= len(meta)
    assert meta_from_xml(meta_to_xml(once)) == once
    if all(c.isprintable() for text in [*meta, *meta.values()] for c in text):
        assert once == meta


def test_attributes_agree_with_ismrmrd() -> None:
    xml = ismrmrd.Meta({"one": "1", "two": ["a", "b"]}).serialize()
    assert meta_from_xml(xml.encode()) == {"one": "1", "two": "a\\b"}
    assert ismrmrd.Meta.deserialize(meta_to_xml({"x": "<y>"}).decode()) == {"x": "<y>"}


@pytest.mark.parametrize("dimensions", [0, 2])
def test_acquisitions_have_the_bytes_that_ismrmrd_writes(dimensions: int) -> None:
    ours = acquisition(dimensions=dimensions, sample_time_us=2.5)
    theirs = ismrmrd.Acquisition(ours.header.tobytes())
    theirs.data[:] = ours.data
    if ours.trajectory is not None:
        theirs.traj[:] = ours.trajectory
    assert theirs.idx.kspace_encode_step_1 == 77
    assert list(theirs.position) == [1.5, -2, 3]
    written = bytearray()
    theirs.serialize_into(written.extend)
    assert write_message(ours)[2:] == written


def test_images_and_waveforms_have_the_bytes_that_ismrmrd_writes() -> None:
    ours = image(5, DataRole="Image")
    theirs = ismrmrd.Image.from_array(ours.data, transpose=False)
    theirs.attribute_string = meta_to_xml(ours.meta).decode()
    ours.header["version"] = theirs.version
    ours.header["image_type"] = theirs.image_type
    ours.header["field_of_view"] = tuple(theirs.field_of_view)
    written = bytearray()
    theirs.serialize_into(written.extend)
    assert write_message(ours)[2:] == written

    wave = waveform()
    copied = ismrmrd.Waveform.from_array(wave.data)
    wave.header["version"], wave.header["flags"] = copied.version, copied.flags
    written = bytearray()
    copied.serialize_into(written.extend)
    assert write_message(wave)[2:] == written


def test_a_socket_gives_whole_messages_and_says_what_is_missing() -> None:
    data = b"".join(map(write_message, ALL))
    near, far = socket.socketpair()

    def send() -> None:
        with far:
            for start in range(0, len(data), 701):
                far.sendall(data[start : start + 701])
            far.sendall(data[:3])

    thread = threading.Thread(target=send)
    thread.start()
    with near:
        read = SocketReader(near)
        for message in ALL:
            assert_equal(read_message(read), message)
        with pytest.raises(EOFError, match=r"inside message 1 CONFIG_FILE.*1023 of 1024 bytes"):
            read_message(read)
    thread.join()


def recorded_streams(shared: Path) -> list[tuple[Path, list[dict[str, Any]]]]:
    streams = []
    for path in sorted((shared / "captures").glob("*/messages.json")):
        for name, stream in json.loads(path.read_text()).items():
            streams.append((path.with_name(f"{name}.bin"), stream["messages"]))
    if not streams:
        pytest.skip(f"no recorded streams in {shared}")
    return streams


def refused(entry: dict[str, Any]) -> bool:
    fields = entry.get("fields", {})
    return (
        entry["id"] not in READABLE
        or bool(fields.get("flags", 0) & Flag.COMPRESSION_ZFP)
        or bool(fields.get("reserved", 0))
    )


def without_loose_bytes(data: bytes, entry: dict[str, Any]) -> bytes:
    """Clear the padding of a waveform header, which senders leave undefined."""
    clean = bytearray(data)
    if entry["id"] == 1026:
        clean[4:10] = bytes(6)
        clean[40:42] = bytes(2)
    return bytes(clean)


def test_recorded_streams_read_message_by_message_and_encode_to_the_same_bytes(
    shared: Path,
) -> None:
    seen: set[int] = set()
    for path, entries in recorded_streams(shared):
        data = path.read_bytes()
        read = buffer_reader(data)
        for entry in entries:
            if refused(entry):
                with pytest.raises(ProtocolError):
                    read_message(read)
                break
            start, end = entry["offset"], entry["offset"] + entry["nbytes"]
            message = read_message(read)
            raw = without_loose_bytes(data[start:end], entry)
            if isinstance(message, Image) and message.meta:  # attributes are kept by meaning
                assert_equal(read_message(buffer_reader(write_message(message))), message)
                assert (
                    ismrmrd.Meta.deserialize(entry["fields"]["meta"].rstrip("\0")).keys()
                    == message.meta.keys()
                )
            elif entry.get("fields", {}).get("flags", 0) & Flag.COMPRESSION_NHLBI:
                assert isinstance(message, Acquisition)  # its samples: test_captures
                assert not int(message.header["flags"]) & Flag.COMPRESSION_NHLBI
            else:
                assert write_message(message) == raw, (path, entry)
            seen.add(entry["id"])
    assert seen >= {1, 2, 3, 4, 5, 6, 7, 8, 1008, 1019, 1022, 1026, 1028}
