"""The mask channel over real loopback sockets, with the binder in this process and beside it."""

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import zmq

from gadgets.mask_broker import MaskService
from gadgets.mask_peer import ReconLink, ReconPort, RemoteReconPort, SequencePort, Unpaired
from gadgets.mask_protocol import (
    MAGIC,
    MAX_MESSAGE,
    Ack,
    Codec,
    ErrorMessage,
    Hello,
    MaskMessage,
    Message,
    Nack,
    ReconHello,
    Scope,
    Welcome,
)
from gadgets.maskd import serve_masks

ANYWHERE = "tcp://127.0.0.1:0"
PATIENCE = 20.0  # seconds until a test gives up; none waits that long when all is well
SLICE = Scope(slice=3)
FALLBACK = tuple(range(44, 52)) + tuple(range(80, 84))
CHOSEN = (0, 10, 44, 45, 46, 47, 48, 49, 50, 51, 70, 95)


def hello(**changes: Any) -> Hello:
    plain = Hello(
        scan_token=str(uuid.uuid4()),
        ky_min=0,
        ky_max=95,
        center=48,
        acquirable=tuple(range(96)),
        calibration=tuple(range(44, 52)),
        n_lines=12,
        group_size=4,
        fallback=FALLBACK,
        deadline_ms=PATIENCE * 1000,
    )
    return replace(plain, **changes)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition never came true")
        time.sleep(0.002)


def soon() -> float:
    return time.monotonic() + PATIENCE


@dataclass
class Channel:
    """A binder, and a reconstruction port to it."""

    endpoint: str
    port: ReconPort


@contextmanager
def daemon() -> Iterator[str]:
    stop, endpoints = threading.Event(), Queue[str]()
    thread = threading.Thread(
        target=serve_masks, args=(ANYWHERE,), kwargs={"ready": endpoints.put, "stop": stop}
    )
    thread.start()
    try:
        yield endpoints.get(timeout=PATIENCE)
    finally:
        stop.set()
        thread.join()


@pytest.fixture(params=["in process", "through maskd"])
def channel(request: pytest.FixtureRequest) -> Iterator[Channel]:
    before = threading.active_count()
    with ExitStack() as stack:
        if request.param == "in process":
            service = stack.enter_context(MaskService(ANYWHERE))
            yield Channel(service.endpoint, service)
        else:
            endpoint = stack.enter_context(daemon())
            yield Channel(endpoint, RemoteReconPort(endpoint))
    assert threading.active_count() == before, "a thread was left behind"


@contextmanager
def opened(channel: Channel, token: str | None, observe: Any = None) -> Iterator[ReconLink]:
    link = channel.port.open(token, observe)
    try:
        link.warmed()
        yield link
    finally:
        link.close()


@contextmanager
def pair(channel: Channel, **changes: Any) -> Iterator[tuple[SequencePort, ReconLink]]:
    fixed = hello(**changes)
    with (
        SequencePort(channel.endpoint, fixed) as sequence,
        opened(channel, fixed.scan_token) as link,
    ):
        assert sequence.wait_ready(PATIENCE)
        until(lambda: link.hello() is not None)
        yield sequence, link


class RawPeer:
    """A DEALER that says what it likes."""

    def __init__(self, endpoint: str) -> None:
        self.codec = Codec()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy()

    def say(self, message: Message) -> None:
        self.socket.send_multipart(self.codec.encode(message))

    def hear(self, kind: type) -> Any:
        """Return the next message of a kind."""
        while self.socket.poll(PATIENCE * 1000):
            message = self.codec.decode(self.socket.recv_multipart())
            if isinstance(message, kind):
                return message
        raise TimeoutError(f"no {kind.__name__} came")


def test_mask_and_applied_make_the_round_trip(channel: Channel) -> None:
    with pair(channel) as (sequence, link):
        message_id = link.send(SLICE, CHOSEN[::-1], model="abc", reason="predicted")
        mask = sequence.poll(SLICE, soon())
        assert mask is not None
        assert (mask.message_id, mask.counters) == (message_id, CHOSEN)
        assert (mask.model, mask.reason) == ("abc", "predicted")
        assert link.applied(SLICE) is None
        sequence.applied(
            SLICE, mask.counters, fallback=False, reason="predicted", message_id=message_id
        )
        applied = link.wait_applied(SLICE, PATIENCE)
        assert applied is not None
        assert (applied.counters, applied.fallback, applied.message_id) == (
            CHOSEN,
            False,
            message_id,
        )
        assert link.applied(SLICE) == applied


def test_recon_learns_what_the_sequence_fixed(channel: Channel) -> None:
    with pair(channel, scanner="bench", repetition="each") as (_, link):
        learned = link.hello()
        assert learned is not None
        assert (learned.scanner, learned.repetition, learned.fallback) == (
            "bench",
            "each",
            FALLBACK,
        )


@pytest.mark.parametrize("sequence_first", [True, False])
def test_hello_may_come_before_or_after_the_recon_opens(
    channel: Channel, sequence_first: bool
) -> None:
    fixed = hello()
    with ExitStack() as stack:
        if sequence_first:
            sequence = stack.enter_context(SequencePort(channel.endpoint, fixed))
            assert not sequence.wait_ready(0.05)
        link = stack.enter_context(opened(channel, fixed.scan_token))
        if not sequence_first:
            assert link.hello() is None
            sequence = stack.enter_context(SequencePort(channel.endpoint, fixed))
        assert sequence.wait_ready(PATIENCE)
        until(lambda: link.hello() == fixed)


def test_sequence_is_not_ready_before_the_models_are_warm(channel: Channel) -> None:
    fixed = hello()
    link = channel.port.open(fixed.scan_token)
    with SequencePort(channel.endpoint, fixed) as sequence:
        until(lambda: link.hello() is not None)
        assert not sequence.wait_ready(0.05)
        link.warmed()
        assert sequence.wait_ready(PATIENCE)
    link.close()


@pytest.mark.parametrize("token", [None, "no-such-scan"])
def test_scan_without_a_partner_is_unpaired(channel: Channel, token: str | None) -> None:
    with SequencePort(channel.endpoint, hello()) as other, opened(channel, token) as link:
        assert not other.wait_ready(0.05)
        with pytest.raises(Unpaired):
            link.send(SLICE, CHOSEN, model="", reason="")
        assert link.hello() is None
        assert link.wait_applied(SLICE, 0.01) is None
        assert other.poll(SLICE, 0.0) is None


def test_two_concurrent_scans_with_equal_measurement_ids_get_their_own_masks(
    channel: Channel,
) -> None:
    # The measurement id stands in the token's human-readable part; only the whole is compared.
    with (
        pair(channel, scan_token="45387_25098:a") as (sequence_a, link_a),
        pair(channel, scan_token="45387_25098:b") as (sequence_b, link_b),
    ):
        for n in range(20):
            scope = Scope(slice=n)
            id_a = link_a.send(scope, CHOSEN, model="a", reason="")
            id_b = link_b.send(scope, FALLBACK, model="b", reason="")
            mask_a, mask_b = sequence_a.poll(scope, soon()), sequence_b.poll(scope, soon())
            assert mask_a is not None
            assert mask_b is not None
            assert (mask_a.message_id, mask_a.model) == (id_a, "a")
            assert (mask_b.message_id, mask_b.model) == (id_b, "b")


def test_two_concurrent_scans_with_the_measurement_id_as_token_get_no_mask(
    channel: Channel,
) -> None:
    with pair(channel, scan_token="45387") as (first, link):
        with SequencePort(channel.endpoint, hello(scan_token="45387")) as second:
            until(lambda: link.hello() is None)
            with pytest.raises(Unpaired, match="2 sequences"):
                link.send(SLICE, CHOSEN, model="", reason="")
            assert not first.wait_ready(0.0)
            assert not second.wait_ready(0.05)
            assert first.poll(SLICE, 0.0) is None
            assert second.poll(SLICE, 0.0) is None
        with pytest.raises(Unpaired):  # the newcomer left, but which was it that we know?
            link.send(SLICE, CHOSEN, model="", reason="")


def test_second_recon_for_a_token_unpairs_both(channel: Channel) -> None:
    with pair(channel) as (sequence, link):
        fixed = link.hello()
        assert fixed is not None
        with opened(channel, fixed.scan_token) as second:
            until(lambda: link.hello() is None)
            for each in (link, second):
                with pytest.raises(Unpaired):
                    each.send(SLICE, CHOSEN, model="", reason="")
        assert sequence.poll(SLICE, 0.0) is None


@pytest.mark.parametrize("same_token", [True, False])
def test_sequence_restarted_in_mid_scan_gets_no_mask_meant_for_the_former(
    channel: Channel, same_token: bool
) -> None:
    fixed = hello()
    with ExitStack() as stack:
        link = stack.enter_context(opened(channel, fixed.scan_token))
        with SequencePort(channel.endpoint, fixed) as former:
            assert former.wait_ready(PATIENCE)
            until(lambda: link.hello() is not None)
            link.send(SLICE, CHOSEN, model="", reason="never read")
        token = fixed.scan_token if same_token else str(uuid.uuid4())
        again = stack.enter_context(
            SequencePort(channel.endpoint, replace(fixed, scan_token=token))
        )
        until(lambda: link.hello() is None)
        with pytest.raises(Unpaired):
            link.send(SLICE, CHOSEN, model="", reason="")
        assert again.poll(SLICE, time.monotonic() + 0.2) is None
        if not same_token:  # and its own partner serves it
            mine = stack.enter_context(opened(channel, token))
            assert again.wait_ready(PATIENCE)
            until(lambda: mine.hello() is not None)
            message_id = mine.send(SLICE, CHOSEN, model="", reason="")
            mask = again.poll(SLICE, soon())
            assert mask is not None
            assert mask.message_id == message_id


def test_sequence_that_vanishes_without_a_bye_is_noticed(channel: Channel) -> None:
    fixed = hello()
    with opened(channel, fixed.scan_token) as link:
        with RawPeer(channel.endpoint) as peer:
            peer.say(fixed)
            until(lambda: link.hello() is not None)
        until(lambda: link.hello() is None)


def test_late_mask_is_nacked_and_not_sent_again(channel: Channel) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []
    fixed = hello()
    with (
        SequencePort(channel.endpoint, fixed) as sequence,
        opened(channel, fixed.scan_token, lambda way, record: seen.append((way, record))) as link,
    ):
        until(lambda: link.hello() is not None)
        sequence.applied(SLICE, FALLBACK, fallback=True, reason="deadline")
        message_id = link.send(SLICE, CHOSEN, model="", reason="too late")
        until(
            lambda: (
                sequence.poll(SLICE, 0.0) is not None
                or any(way == "received" and r["kind"] == "nack" for way, r in seen)
            )
        )
        [nack] = [r for way, r in seen if way == "received" and r["kind"] == "nack"]
        assert (nack["reason"], nack["message_id"]) == ("late", message_id)
        applied = link.wait_applied(SLICE, PATIENCE)
        assert applied is not None
        assert (applied.fallback, applied.reason, applied.counters) == (True, "deadline", FALLBACK)


def test_observer_sees_every_mask_message_in_both_directions(channel: Channel) -> None:
    seen: list[tuple[str, str]] = []
    fixed = hello()
    with (
        SequencePort(channel.endpoint, fixed) as sequence,
        opened(
            channel, fixed.scan_token, lambda way, record: seen.append((way, record["kind"]))
        ) as link,
    ):
        until(lambda: link.hello() is not None)
        link.send(SLICE, CHOSEN, model="", reason="")
        assert sequence.poll(SLICE, soon())
        sequence.applied(SLICE, CHOSEN, fallback=False, reason="")
        assert link.wait_applied(SLICE, PATIENCE)
        for message in [
            ("received", "hello"),
            ("sent", "mask"),
            ("received", "ack"),
            ("received", "applied"),
        ]:
            assert message in seen


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


def test_mask_is_repeated_until_the_ack(channel: Channel) -> None:
    fixed = hello()
    with RawPeer(channel.endpoint) as sequence, opened(channel, fixed.scan_token) as link:
        sequence.say(fixed)
        until(lambda: link.hello() is not None)
        message_id = link.send(SLICE, CHOSEN, model="", reason="")
        copies = [sequence.hear(MaskMessage) for _ in range(3)]
        assert {copy.message_id for copy in copies} == {message_id}
        sequence.say(Ack(scan_token=fixed.scan_token, message_id=message_id))
        until(lambda: not link.waiting())  # type: ignore[attr-defined]


def test_nobody_repeats_a_mask_after_the_deadline(channel: Channel) -> None:
    fixed = hello(deadline_ms=120)
    with RawPeer(channel.endpoint) as sequence, opened(channel, fixed.scan_token) as link:
        sequence.say(fixed)
        until(lambda: link.hello() is not None)
        link.send(SLICE, CHOSEN, model="", reason="")
        until(lambda: not link.waiting())  # type: ignore[attr-defined]
        sequence.hear(MaskMessage)


def test_deadline_of_zero_uses_the_fallback_and_the_scan_goes_on(channel: Channel) -> None:
    with pair(channel, deadline_ms=0) as (sequence, link):
        for n in range(5):
            scope = Scope(slice=n)
            assert sequence.poll(scope, time.monotonic()) is None
            sequence.applied(scope, FALLBACK, fallback=True, reason="deadline")
            link.send(scope, CHOSEN, model="", reason="")
            applied = link.wait_applied(scope, PATIENCE)
            assert applied is not None
            assert (applied.fallback, applied.counters) == (True, FALLBACK)
            assert sequence.poll(scope, time.monotonic() + 0.01) is None


def test_recon_that_disagrees_with_the_hello_is_heard(channel: Channel) -> None:
    with pair(channel) as (sequence, link):
        link.refuse("the configuration says 8 lines, hello says 12")
        until(lambda: sequence.poll(SLICE, 0.0) is None and sequence.refused is not None)
        assert "hello says 12" in str(sequence.refused)
        assert not sequence.wait_ready(0.0)


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
        vandal.socket.send_multipart([MAGIC, b"{}", bytes(MAX_MESSAGE + 1)])
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


def test_service_that_closes_tells_its_peers() -> None:
    fixed = hello()
    with MaskService(ANYWHERE) as service:
        sequence = SequencePort(service.endpoint, fixed)
        link = service.open(fixed.scan_token)
        link.warmed()
        assert sequence.wait_ready(PATIENCE)
    with pytest.raises(Unpaired, match="closed"):
        link.send(SLICE, CHOSEN, model="", reason="")
    link.close()
    until(lambda: sequence.poll(SLICE, 0.0) is None and not sequence.wait_ready(0.0))
    sequence.close()
    sequence.close()


def test_service_logs_the_conversation() -> None:
    said: list[str] = []
    with MaskService(ANYWHERE, lambda way, record: said.append(f"{way} {record['kind']}")) as host:
        with pair(Channel(host.endpoint, host)) as (sequence, link):
            link.send(SLICE, CHOSEN, model="", reason="")
            assert sequence.poll(SLICE, soon()) is not None
        until(lambda: "received bye" in said)
    assert {"received hello", "sent welcome", "sent mask", "received ack"} <= set(said)


def test_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    with MaskService(ANYWHERE) as service, pytest.raises(zmq.ZMQError, match="in use"):
        MaskService(service.endpoint)


def test_ipc_wildcard_port_and_ipv6_loopback_serve_as_well(tmp_path: Path) -> None:
    endpoints = [f"ipc://{tmp_path}/masks", "tcp://127.0.0.1:*"]
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        endpoints.append("tcp://[::1]:0")
    for endpoint in endpoints:
        with MaskService(endpoint) as host, pair(Channel(host.endpoint, host)) as (sequence, link):
            link.send(SLICE, CHOSEN, model="", reason="")
            assert sequence.poll(SLICE, soon()) is not None


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
        serve_masks,
        lambda where: SequencePort(where, hello()),
    ):
        with pytest.raises(ValueError, match="CURVE"):
            make(endpoint)  # type: ignore[operator]
