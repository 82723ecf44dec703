import json
import uuid
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gadgets.mask.codec import (
    MAGIC,
    MAX_HEADER,
    MAX_MESSAGE,
    Codec,
    MaskProtocolError,
    pack_bitmap,
    unpack_bitmap,
)
from gadgets.mask.messages import (
    Ack,
    Applied,
    Bye,
    ErrorMessage,
    Heartbeat,
    Hello,
    MaskMessage,
    Message,
    Nack,
    ReconHello,
    Scope,
    Welcome,
    as_record,
    check_mask,
    check_scope,
)

TOKEN = "7d0b2cba-3b1e-4f5c-8a0f-5f4f3d1c2b1a"
HELLO = Hello(
    scan_token=TOKEN,
    ky_min=3,
    ky_max=42,
    center=22,
    acquirable=tuple(range(5, 40)),
    calibration=(20, 21, 22, 23),
    n_lines=10,
    group_size=3,
    fallback=(5, 10, 15, 20, 21, 22, 23, 30, 35, 39),
    deadline_ms=12.5,
    scanner="virtual",
)
MASK = MaskMessage(
    message_id=str(uuid.UUID(int=1)),
    scan_token=TOKEN,
    sequence_no=1,
    scope=Scope(slice=2, repetition=1),
    ky_min=3,
    ky_max=42,
    counters=HELLO.fallback,
    model="ab" * 32,
    reason="predicted",
)
APPLIED = Applied(
    scan_token=TOKEN,
    scope=Scope(slice=2),
    ky_min=3,
    ky_max=42,
    counters=HELLO.fallback,
    fallback=True,
    reason="deadline",
)
MESSAGES: list[Message] = [
    HELLO,
    replace(HELLO, repetition="each", scanner="", scan_token="45387_25098:1.2"),
    ReconHello(scan_token=TOKEN, warm=False),
    Welcome(scan_token=TOKEN, paired=True, ready=False, reason=""),
    MASK,
    Ack(scan_token=TOKEN, message_id=MASK.message_id),
    Nack(scan_token=TOKEN, message_id=MASK.message_id, reason="late", detail="x"),
    Nack(scan_token=TOKEN, message_id=None, reason="disagreement", detail=""),
    APPLIED,
    replace(APPLIED, message_id=MASK.message_id, fallback=False),
    Heartbeat(),
    Bye(scan_token=TOKEN),
    ErrorMessage(reason="malformed", detail="why"),
]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec()


@pytest.fixture(scope="module")
def published() -> Draft202012Validator:
    text = resources.files("gadgets.mask").joinpath("schema.json").read_text("utf-8")
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    low = draw(st.integers(0, 65_000))
    high = draw(st.integers(low, min(low + 530, 65_535)))
    return low, high, draw(st.lists(st.integers(low, high), unique=True))


@given(windows())
def test_bitmap_is_what_numpy_unpacks_least_significant_bit_first(
    window: tuple[int, int, list[int]],
) -> None:
    low, high, counters = window
    bits = pack_bitmap(counters, low, high)
    oracle = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    assert (np.flatnonzero(oracle) + low).tolist() == sorted(counters)
    assert len(bits) == -(-(high - low + 1) // 8)
    assert unpack_bitmap(bits, low, high) == tuple(sorted(counters))


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(b"", 0, 7), (b"\0\0", 0, 7), (b"\x10", 0, 3), (b"", 5, 4)]
)
def test_bitmap_of_wrong_length_or_with_spare_bits_is_refused(
    bits: bytes, low: int, high: int
) -> None:
    with pytest.raises(ValueError, match="bitmap"):
        unpack_bitmap(bits, low, high)


def test_counter_outside_the_window_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match=r"8 is outside 0\.\.7"):
        pack_bitmap([8], 0, 7)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire_and_obeys_the_published_schema(
    codec: Codec, published: Draft202012Validator, message: Message
) -> None:
    frames = codec.encode(message)
    assert codec.decode(frames) == message
    published.validate(json.loads(frames[1]))


def test_numpy_counters_can_be_sent(codec: Codec) -> None:
    counters = tuple(np.array(MASK.counters))
    sent = replace(MASK, counters=counters, scope=Scope(slice=np.int64(2), repetition=np.int64(1)))
    assert codec.decode(codec.encode(sent)) == MASK


def headers() -> list[dict[str, Any]]:
    codec = Codec()
    return [json.loads(codec.encode(message)[1]) for message in MESSAGES]


def mutations(header: dict[str, Any]) -> list[dict[str, Any]]:
    """Return headers with one key gone, one foreign, one of another type or out of range."""
    wrong = [{k: v for k, v in header.items() if k != gone} for gone in header]
    wrong.append(header | {"patient_name": "Doe"})
    for key, value in header.items():
        wrong += [header | {key: bad} for bad in ([], {"a": 1}, -1, 1e300, "x" * 201)]
        if not isinstance(value, bool):
            wrong.append(header | {key: True})
        if value is not None and key != "message_id":
            wrong.append(header | {key: None})
    return wrong


@pytest.mark.parametrize("header", headers(), ids=lambda h: h["kind"])
def test_published_schema_and_codec_refuse_every_mutated_header(
    codec: Codec, published: Draft202012Validator, header: dict[str, Any]
) -> None:
    payload = codec.encode(MESSAGES[headers().index(header)])[2]
    for wrong in mutations(header):
        assert not published.is_valid(wrong), wrong
        with pytest.raises(MaskProtocolError, match="malformed"):
            codec.decode([MAGIC, json.dumps(wrong).encode(), payload])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"kind": ["mask"]}',
        b'{"kind": "mask"}',
        b'{"kind": "hello", "role": "spectator"}',
        b'{"schema": "adaptive-mask/2", "kind": "heartbeat"}',
        b'{"schema": "adaptive-mask/1", "kind": "heartbeat", "x": NaN}',
        b"1" * 10_000,
    ],
)
def test_header_that_is_no_message_is_malformed(codec: Codec, text: bytes) -> None:
    with pytest.raises(MaskProtocolError, match="malformed"):
        codec.decode([MAGIC, text, b""])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_only_finite_numbers_pass(codec: Codec, number: str) -> None:
    frames = codec.encode(HELLO)
    text = frames[1].replace(b"12.5", number.encode())
    assert text != frames[1]
    with pytest.raises(MaskProtocolError, match="malformed"):
        codec.decode([MAGIC, text, frames[2]])
    with pytest.raises(ValueError, match="JSON compliant"):
        codec.encode(replace(HELLO, deadline_ms=float(number)))


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_garbage_frames_raise_nothing_but_protocol_errors(frames: list[bytes]) -> None:
    with pytest.raises(MaskProtocolError):
        GARBAGE_CODEC.decode(frames)


GARBAGE_CODEC = Codec()


def test_whole_numbers_may_be_written_with_a_decimal_point(codec: Codec) -> None:
    magic, text, payload = codec.encode(MASK)
    dotted = text.replace(b'"ky_min":3', b'"ky_min":3.0').replace(b'"n_lines":10', b'"n_lines":1e1')
    assert dotted != text
    decoded = codec.decode([magic, dotted, payload])
    assert decoded == MASK
    assert codec.encode(decoded)[1] == text


def test_peer_values_do_not_reach_the_error_text(codec: Codec) -> None:
    header = json.loads(codec.encode(MASK)[1]) | {"scan_token": "Jane Doe"}
    with pytest.raises(MaskProtocolError) as caught:
        codec.decode([MAGIC, json.dumps(header).encode(), b""])
    assert "Doe" not in str(caught.value)
    assert "scan_token" in str(caught.value)


def test_oversized_messages_are_refused_whichever_frame_is_large(codec: Codec) -> None:
    magic, text, payload = codec.encode(MASK)
    for frames in (
        [magic, text, bytes(MAX_MESSAGE)],
        [magic, text + b" " * MAX_HEADER, payload],
        [bytes(MAX_MESSAGE // 2 + 1)] * 2,
    ):
        with pytest.raises(MaskProtocolError, match="oversized"):
            codec.decode(frames)


@pytest.mark.parametrize("payload", [b"", bytes(5), bytes(6), b"\xff" * 5])
def test_payload_that_contradicts_the_header_is_malformed(codec: Codec, payload: bytes) -> None:
    magic, text, _ = codec.encode(MASK)
    with pytest.raises(MaskProtocolError, match="malformed"):
        codec.decode([magic, text, payload])


def test_payload_where_none_belongs_is_malformed(codec: Codec) -> None:
    magic, text, _ = codec.encode(Heartbeat())
    with pytest.raises(MaskProtocolError, match="no payload"):
        codec.decode([magic, text, b"\0"])


@pytest.mark.parametrize(
    ("counters", "word"),
    [
        (HELLO.fallback, None),
        ((*HELLO.fallback[:-1], 35), "duplicate"),
        ((*HELLO.fallback[:-1], 43), "window"),
        ((*HELLO.fallback[:-1], 41), "window"),  # inside ky_min..ky_max, but not acquirable
        ((*HELLO.fallback[:-1], -1), "window"),
        ((5, 6, 10, 15, 20, 21, 22, 30, 35, 39), "calibration missing"),
        (HELLO.fallback[:-1], "group size"),
        (HELLO.fallback[3:7], "budget"),
        ((*HELLO.fallback, 6, 7, 8), "budget"),
        ((), "calibration missing"),
    ],
)
def test_mask_is_refused_with_the_reason(counters: tuple[int, ...], word: str | None) -> None:
    reason = check_mask(HELLO, counters)
    assert reason is None if word is None else str(reason).startswith(word)


def test_later_repetitions_have_a_mask_only_if_each_has() -> None:
    later = Scope(slice=0, repetition=1)
    assert "repetition" in str(check_scope(HELLO, later))
    assert check_scope(replace(HELLO, repetition="each"), later) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"center": 43}, "center"),
        ({"ky_max": 38}, "acquirable"),
        ({"calibration": (20, 20)}, "calibration"),
        ({"acquirable": ()}, "acquirable"),
        ({"n_lines": 11}, "fallback mask: budget"),
        ({"group_size": 4}, "fallback mask: group size"),
        ({"calibration": (20, 21, 22, 24)}, "fallback mask: calibration missing"),
        ({"fallback": HELLO.fallback[::-1]}, "ascending"),
    ],
)
def test_hello_that_contradicts_itself_cannot_be_made(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(HELLO, **change)


@pytest.mark.parametrize("wrong", [b"true", b"-1", b"65536", b'"20"', b"null", b"20.5"])
def test_a_calibration_line_that_is_no_counter_is_malformed(codec: Codec, wrong: bytes) -> None:
    magic, text, payload = codec.encode(HELLO)
    changed = text.replace(b'"calibration":[20,', b'"calibration":[' + wrong + b",")
    assert changed != text
    with pytest.raises(MaskProtocolError, match=r"calibration.*0 to 65535"):
        codec.decode([magic, changed, payload])


@pytest.mark.parametrize("edge", [0, 65535])
def test_the_first_and_the_last_counter_may_be_calibration(codec: Codec, edge: int) -> None:
    lines = tuple(range(edge, edge + 4)) if edge == 0 else tuple(range(edge - 3, edge + 1))
    hello = replace(
        HELLO,
        ky_min=lines[0],
        ky_max=lines[-1],
        center=lines[1],
        acquirable=lines,
        calibration=lines,
        n_lines=4,
        group_size=4,
        fallback=lines,
    )
    assert codec.decode(codec.encode(hello)) == hello


def test_hello_that_contradicts_itself_is_malformed_on_the_wire(codec: Codec) -> None:
    magic, text, payload = codec.encode(HELLO)
    wrong = text.replace(b'"n_lines":10', b'"n_lines":13')
    with pytest.raises(MaskProtocolError, match="fallback mask: budget"):
        codec.decode([magic, wrong, payload])


def test_record_of_a_mask_is_json_and_names_its_lines() -> None:
    record = json.loads(json.dumps(as_record(MASK)))
    assert record["kind"] == "mask"
    assert record["counters"] == list(MASK.counters)
    assert record["scope"] == {"slice": 2, "repetition": 1}
