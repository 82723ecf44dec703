"""Lines that come together: what they give is what they give one by one."""

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gadgets.mrd import bursts
from gadgets.mrd.bursts import GATHER_S, MOST, LineReader
from gadgets.mrd.header_layouts import WAVEFORM_HEADER, Flag
from gadgets.mrd.items import Acquisition, Burst, Frame, Item, Mask, PreScan, Waveform
from gadgets.mrd.messages import Close, Message, read_message, write_message
from gadgets.mrd.sockets import SocketReader
from gadgets.pipeline.chain import apart, run
from gadgets.pipeline.scan import Scan
from gadgets.steps.accumulate import AccumulateFrame
from gadgets.steps.noise_adjust import NoiseAdjust
from gadgets.steps.predict_mask import PredictMask
from gadgets.steps.readout import RemoveReadoutOversampling
from tests.gadgets.helpers.synthetic import Fixed, acquisition, changed, scanned
from tests.gadgets.steps.test_predict_mask import CALIBRATION, NET, ONE

FIELDS = [
    {},
    {"flags": Flag.LAST_IN_SLICE},
    {"flags": Flag.CALIBRATION},
    {"flags": Flag.NAVIGATION},
    {"flags": Flag.NOISE},
    {"flags": Flag.REVERSE},
    {"slice": 1},
    {"average": 1},
    {"encoding_space_ref": 1},
    {"kspace_encode_step_1": 31},
    {"discard_pre": 2, "discard_post": 3},
    {"user_int": 7},
]


def received(messages: Iterable[Message]) -> list[Message | Burst]:
    """Send messages, and read them once all of them lie ready."""
    near, far = socket.socketpair()
    with near, far:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        far.sendall(b"".join(map(write_message, [*messages, Close()])))
        reader = LineReader(SocketReader(near), read_message)
        found: list[Message | Burst] = []
        while not found or not isinstance(found[-1], Close):
            found.append(reader.next())
    return found[:-1]


def waveform() -> Waveform:
    header = np.zeros(1, WAVEFORM_HEADER)[0]
    header["channels"], header["number_of_samples"] = 1, 3
    return Waveform(header=header, data=np.arange(3, dtype=np.uint32).reshape(1, 3))


@st.composite
def streams(draw: st.DrawFn) -> list[Message]:
    """Runs of lines that are alike, and between them what is not."""
    one = scanned(n_ky=32, n_slices=2)
    messages: list[Message] = []
    for _ in range(draw(st.integers(1, 6))):
        first = draw(st.integers(0, 31))
        lines = one.lines(counters=range(first, min(32, first + draw(st.integers(1, 32)))))
        fields = draw(st.sampled_from(FIELDS))
        messages += [changed(line, **fields) for line in lines]
        between = draw(st.sampled_from(["nothing", "waveform", "another length", "NaN"]))
        if between == "waveform":
            messages.append(waveform())
        elif between == "another length":
            messages.append(acquisition(np.ones((3, 6)), flags=Flag.NAVIGATION))
        elif between == "NaN":
            messages.append(replace(lines[0], data=np.full_like(lines[0].data, np.nan)))
    return messages


@settings(deadline=None, max_examples=60)
@given(streams())
def test_bursts_hold_the_messages_as_they_were_sent(messages: list[Message]) -> None:
    items = received(messages)
    alone = [one for item in items for one in (item.lines() if isinstance(item, Burst) else [item])]
    assert [write_message(one) for one in alone] == [write_message(one) for one in messages]


def test_lines_of_one_slice_come_in_bursts_that_are_not_too_long() -> None:
    lines = scanned(n_ky=100).lines()
    first, *bursts = received(lines)
    assert isinstance(first, Acquisition)  # its layout is not known before it is there
    assert [len(burst.headers) for burst in bursts] == [*[MOST] * 3, 3]  # type: ignore[union-attr]


def test_lines_of_slices_in_turn_come_one_by_one() -> None:
    one = scanned(n_ky=32, n_slices=2)
    items = received([one.line(i, i % 2) for i in range(32)])
    assert all(isinstance(item, Acquisition) for item in items)


def test_a_line_waits_for_none_that_is_only_half_there() -> None:
    lines = [write_message(line) for line in scanned().lines()[:4]]
    near, far = socket.socketpair()
    near.settimeout(1.0)
    with near, far:
        reader = LineReader(SocketReader(near), read_message)
        far.sendall(b"".join(lines[:3]) + lines[3][:-1])
        first, burst = reader.next(), reader.next()
        assert isinstance(first, Acquisition)
        assert write_message(first) == lines[0]
        assert isinstance(burst, Burst)
        assert [write_message(line) for line in burst.lines()] == lines[1:3]
        far.sendall(lines[3][-1:])
        assert write_message(reader.message()) == lines[3]


@contextmanager
def over_tcp() -> Iterator[tuple[socket.socket, LineReader[Message]]]:
    """Connect as scanners do; the kernel counts what lies ready of TCP alone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        far = socket.create_connection(listening.getsockname())
        near, _ = listening.accept()
    with near, far:
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield far, LineReader(SocketReader(near), read_message)


def test_lines_that_may_wait_are_let_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "GATHER_S", 60.0)  # however busy the machine is, all eight come
    lines = [write_message(line) for line in scanned().lines()[:9]]
    with over_tcp() as (far, reader):

        def send() -> None:
            for line in lines:
                far.sendall(line)
                time.sleep(0.002)

        thread = threading.Thread(target=send)
        thread.start()
        first, burst = reader.next(8), reader.next(8)
        thread.join()
    assert isinstance(first, Acquisition)
    assert isinstance(burst, Burst)
    assert [write_message(line) for line in burst.lines()] == lines[1:]


def test_what_gathered_is_there_soon_where_no_more_comes() -> None:
    lines = [write_message(line) for line in scanned().lines()[:3]]
    with over_tcp() as (far, reader):
        far.sendall(b"".join(lines))
        first, began = reader.next(8), time.monotonic()
        burst = reader.next(8)
        waited = time.monotonic() - began
        assert isinstance(first, Acquisition)
        assert isinstance(burst, Burst)
        assert GATHER_S <= waited < 20 * GATHER_S


def test_an_end_is_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "GATHER_S", 60.0)
    with over_tcp() as (far, reader):
        far.sendall(write_message(scanned().lines()[0]) + write_message(Close()))
        far.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        assert isinstance(reader.next(8), Acquisition)
        assert isinstance(reader.next(8), Close)
        assert time.monotonic() - began < 30


def test_lines_are_given_one_by_one_to_whoever_asks_for_messages() -> None:
    lines = [write_message(line) for line in scanned().lines()[:4]]
    near, far = socket.socketpair()
    with near, far:
        reader = LineReader(SocketReader(near), read_message)
        far.sendall(b"".join(lines))
        assert [write_message(reader.message()) for _ in lines] == lines


def results(chain: Iterable[Any], items: list[Item], **services: Any) -> tuple[list[Item], Scan]:
    scan = Scan(geometry=services.pop("geometry"), **services)
    return list(apart(run(chain, scan, items))), scan


def assert_equal(one: list[Item], other: list[Item]) -> None:
    assert [type(item) for item in one] == [type(item) for item in other]
    for a, b in zip(one, other, strict=True):
        if isinstance(a, Acquisition | Frame) and isinstance(b, type(a)):
            assert a.header.tobytes() == b.header.tobytes()
        for name in ("data", "kspace", "lines"):
            if hasattr(a, name):
                # a transform of many rows may round another way than that of one
                x, y = getattr(a, name), getattr(b, name)
                np.testing.assert_allclose(x, y, atol=2e-6 * max(np.abs(y).max(initial=0), 1e-9))
        for name in ("mask", "calibration", "counters"):
            if hasattr(a, name):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for name in ("key", "reason", "meta"):
            assert getattr(a, name, None) == getattr(b, name, None)


@settings(deadline=None, max_examples=100)
@given(streams(), st.booleans())
def test_frames_of_bursts_are_those_of_lines(messages: list[Message], noise: bool) -> None:
    one = scanned(n_ky=32, n_slices=2)
    rng = np.random.default_rng(0)
    if noise:
        readouts = rng.normal(size=(2, 3, 48))
        messages = [acquisition(readouts[0] + 1j * readouts[1], flags=Flag.NOISE), *messages]
    chain = (NoiseAdjust(), RemoveReadoutOversampling(), AccumulateFrame(allow_incomplete=True))
    found, scan = results(chain, received(messages), geometry=one.geometry)  # type: ignore[arg-type]
    expected, alone = results(chain, list(messages), geometry=one.geometry)  # type: ignore[arg-type]
    assert_equal(found, expected)
    assert scan.counts == alone.counts


@pytest.mark.parametrize("mode", ["prospective", "retrospective", "shadow"])
@pytest.mark.parametrize("calibration_first", [True, False])
def test_masks_of_bursts_are_those_of_lines(mode: Any, calibration_first: bool) -> None:
    rest = [c for c in range(64) if c not in CALIBRATION]
    order = CALIBRATION + rest if calibration_first else list(range(64))
    lines = [line for s in range(3) for line in ONE.lines(s, order)]
    chain = (RemoveReadoutOversampling(), PredictMask(mode=mode, sampler="net"), AccumulateFrame())
    items = received(lines)
    assert sum(isinstance(item, Burst) for item in items) >= 6
    services: dict[str, Any] = {"geometry": ONE.geometry, "models": Fixed(net=NET)}
    found, scan = results(chain, items, **services)  # type: ignore[arg-type]
    expected, alone = results(chain, list(lines), **services)
    assert_equal(found, expected)
    assert {Frame, Mask, PreScan} <= {type(item) for item in found}
    assert scan.counts == alone.counts
