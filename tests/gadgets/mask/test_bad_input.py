"""Bad words on the mask channel: each is answered or dropped, and the other scans go on."""

import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import zmq

from gadgets.mask.binder import MaskService
from gadgets.mask.codec import MAGIC, MAX_MESSAGE, Codec
from gadgets.mask.messages import Ack, ErrorMessage, MaskMessage, Nack, ReconHello, Scope, Welcome
from gadgets.mask.recon_end import Unpaired
from gadgets.mask.recon_port import RemoteReconPort
from gadgets.mask.sequence_port import SequencePort
from tests.gadgets.helpers.mask_bench import (
    ANYWHERE,
    CHOSEN,
    PATIENCE,
    SLICE,
    Channel,
    RawPeer,
    channel_kind,
    hello,
    opened,
    pair,
    soon,
    until,
)


@pytest.fixture(params=["in process", "through maskd"])
def channel(request: pytest.FixtureRequest) -> Iterator[Channel]:
    with channel_kind(request.param) as served:
        yield served


@pytest.mark.parametrize(
    ("counters", "word"),
    [
        (CHOSEN[:-4], "calibration missing"),
        ((*CHOSEN, 11, 12, 13, 14), "budget"),
        ((*CHOSEN, 11), "group size"),
        ((*CHOSEN[:-1], 96), "window"),
        ((*CHOSEN[:-1], 0), "duplicate"),
    ],
)
def test_recon_cannot_send_what_is_no_mask_of_the_scan(
    channel: Channel, counters: tuple[int, ...], word: str
) -> None:
    with pair(channel) as (sequence, link):
        with pytest.raises(ValueError, match=word):
            link.send(SLICE, counters, model="", reason="")
        with pytest.raises(ValueError, match="repetition"):
            link.send(Scope(slice=3, repetition=1), CHOSEN, model="", reason="")
        assert sequence.poll(SLICE, 0.0) is None


def test_sequence_nacks_what_an_unchecked_recon_sends(channel: Channel) -> None:
    fixed = hello()
    good = MaskMessage(
        message_id=str(uuid.uuid4()),
        scan_token=fixed.scan_token,
        sequence_no=5,
        scope=SLICE,
        ky_min=0,
        ky_max=95,
        counters=CHOSEN,
        model="",
        reason="",
    )
    with SequencePort(channel.endpoint, fixed) as sequence, RawPeer(channel.endpoint) as recon:
        recon.say(ReconHello(scan_token=fixed.scan_token, warm=True))
        assert sequence.wait_ready(PATIENCE)

        def answer(**changes: Any) -> Any:
            recon.say(replace(good, **changes))
            answers: list[Any] = []
            thread = threading.Thread(target=lambda: answers.append(recon.hear(Ack | Nack)))
            thread.start()
            while thread.is_alive():
                sequence.poll(Scope(slice=9), time.monotonic() + 0.01)
            thread.join()
            return answers[0]

        def fresh() -> str:
            return str(uuid.uuid4())

        short = answer(message_id=fresh(), counters=CHOSEN[:-1])
        assert (short.reason, short.detail.split(":")[0]) == ("invalid", "group size")
        assert answer(message_id=fresh(), scan_token="other").reason == "foreign"
        assert answer() == Ack(scan_token=fixed.scan_token, message_id=good.message_id)
        assert answer() == Ack(scan_token=fixed.scan_token, message_id=good.message_id)
        assert answer(message_id=fresh(), sequence_no=4).reason == "stale"
        assert sequence.poll(SLICE, 0.0) == good


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"hello"], "malformed"),
        ([b""], "malformed"),
        ([b"", b"", b"", b"", b""], "malformed"),
        ([b"AMSK2", b"{}", b""], "malformed"),
        ([MAGIC, b"{", b""], "malformed"),
        ([MAGIC, b"[" * 9000, b""], "malformed"),
        ([MAGIC, b'{"kind": "mask"}', b"\xff"], "malformed"),
        ([MAGIC, b"{}", bytes(MAX_MESSAGE - 4)], "oversized"),
    ],
)
def test_bad_message_is_answered_with_an_error_and_the_scans_go_on(
    channel: Channel, frames: list[bytes], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="gadgets")
    with pair(channel) as (sequence, link), RawPeer(channel.endpoint) as vandal:
        vandal.socket.send_multipart(frames)
        assert vandal.hear(ErrorMessage).reason == reason
        link.send(SLICE, CHOSEN, model="", reason="")
        assert sequence.poll(SLICE, soon()) is not None


def test_frame_over_the_limit_and_bytes_that_are_not_zmq_leave_the_scans_alone(
    channel: Channel,
) -> None:
    port = int(channel.endpoint.rpartition(":")[2])
    with pair(channel) as (sequence, link), RawPeer(channel.endpoint) as vandal:
        monitor = vandal.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        vandal.socket.send_multipart([MAGIC, b"{}", bytes(MAX_MESSAGE + 1)])
        assert monitor.poll(PATIENCE * 1000), "the binder took a frame over the limit"
        vandal.socket.disable_monitor()
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        link.send(SLICE, CHOSEN, model="", reason="")
        assert sequence.poll(SLICE, soon()) is not None


def test_sequence_drops_garbage_from_its_binder() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.bind(ANYWHERE)
    codec, fixed = Codec(), hello()
    try:
        endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
        with SequencePort(endpoint, fixed) as sequence:
            peer, *frames = router.recv_multipart()
            assert codec.decode(frames) == fixed
            router.send_multipart([peer, b"garbage"])
            ready = Welcome(scan_token=fixed.scan_token, paired=True, ready=True, reason="")
            router.send_multipart([peer, *codec.encode(ready)])
            assert sequence.wait_ready(PATIENCE)
            assert isinstance(codec.decode(router.recv_multipart()[1:]), ErrorMessage)
    finally:
        context.destroy()


def test_observer_that_raises_does_not_end_the_channel(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="gadgets")

    def broken(way: str, record: dict[str, Any]) -> None:
        if way == "received" and record["kind"] == "ack":
            raise OSError("disk full")

    fixed = hello()
    with (
        SequencePort(channel.endpoint, fixed) as sequence,
        opened(channel, fixed.scan_token, broken) as link,
    ):
        until(lambda: link.hello() is not None)
        for n in range(2):
            link.send(Scope(slice=n), CHOSEN, model="", reason="")
            assert sequence.poll(Scope(slice=n), soon()) is not None


def test_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    with MaskService(ANYWHERE) as service, pytest.raises(zmq.ZMQError, match="in use"):
        MaskService(service.endpoint)


@pytest.mark.parametrize("make", [MaskService, lambda where: SequencePort(where, hello())])
def test_endpoint_without_a_usable_port_is_an_error_and_leaves_nothing_open(make: Any) -> None:
    with pytest.raises(zmq.ZMQError):
        make("tcp://127.0.0.1:ninety")


def test_binder_that_lost_our_hello_unpairs_the_link() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.bind(ANYWHERE)
    codec, fixed = Codec(), hello()
    try:
        link = RemoteReconPort(router.getsockopt_string(zmq.LAST_ENDPOINT)).open(fixed.scan_token)
        peer, *_ = router.recv_multipart()
        ready = Welcome(scan_token=fixed.scan_token, paired=True, ready=True, reason="")
        for message in (fixed, ready):
            router.send_multipart([peer, *codec.encode(message)])
        until(lambda: link.hello() is not None)
        link.send(SLICE, CHOSEN, model="", reason="")
        lost = ErrorMessage(reason="no-hello", detail="say hello first")
        router.send_multipart([peer, *codec.encode(lost)])
        until(lambda: link.hello() is None)
        with pytest.raises(Unpaired, match="say hello first"):
            link.send(SLICE, CHOSEN, model="", reason="")
        link.close()
    finally:
        context.destroy()


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:9003",
        "tcp://0.0.0.0:9003",
        "tcp://192.168.2.1:9003",
        "tcp://[::]:9003",
        "tcp://scanner:9003",
        "tcp://127.0.0.1.example.org:9003",
        "udp://127.0.0.1:9003",
        "nonsense",
    ],
)
def test_endpoint_that_leaves_the_machine_is_refused_by_everybody(endpoint: str) -> None:
    for make in (
        MaskService,
        RemoteReconPort,
        lambda where: SequencePort(where, hello()),
    ):
        with pytest.raises(ValueError, match="CURVE"):
            make(endpoint)  # type: ignore[operator]
