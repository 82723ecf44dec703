"""Connections that break and come back, and peers that take more than their share."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from gadgets.mask import allowance, recon_end
from gadgets.mask.allowance import BURST, LEAST, RATE, Allowances
from gadgets.mask.binder import MAX_PEERS, Binder, MaskService
from gadgets.mask.codec import Codec
from gadgets.mask.messages import (
    BROKEN,
    Ack,
    Applied,
    ErrorMessage,
    Heartbeat,
    ReconHello,
    Scope,
    Welcome,
    as_record,
)
from gadgets.mask.recon_end import ReconLink
from gadgets.mask.recon_port import RemoteReconPort
from gadgets.mask.sequence_port import SequencePort
from tests.gadgets.helpers.mask_bench import (
    ANYWHERE,
    CHOSEN,
    FALLBACK,
    PATIENCE,
    SLICE,
    RawPeer,
    channel_kind,
    hello,
    opened,
    pair,
    soon,
    until,
)


class Cable:
    """A TCP relay that can be cut and mended."""

    def __init__(self, endpoint: str) -> None:
        self._target = int(endpoint.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._whole = threading.Event()
        self._whole.set()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def cut(self) -> None:
        self._whole.clear()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            if not self._whole.is_set():
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            self._ends += [near, far]
            self._run(self._carry, near, far)
            self._run(self._carry, far, near)

    def _run(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable(endpoint: str) -> Iterator[Cable]:
    made = Cable(endpoint)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("noticed", [True, False])
def test_a_sequence_whose_connection_was_cut_gets_its_next_masks(noticed: bool) -> None:
    fixed = hello()
    with (
        MaskService(ANYWHERE) as service,
        cable(service.endpoint) as wire,
        SequencePort(wire.endpoint, fixed) as sequence,
        opened(channel_of(service), fixed.scan_token) as link,
    ):
        assert sequence.wait_ready(PATIENCE)
        until(lambda: link.hello() is not None)
        wire.cut()
        if noticed:  # by the binder, which probes
            until(lambda: link.hello() is None)
        wire.mend()
        link.send(SLICE, CHOSEN, model="", reason="")  # perhaps before it is back
        mask = sequence.poll(SLICE, soon())
        assert mask is not None
        assert mask.counters == CHOSEN
        until(lambda: link.hello() is not None)
        assert sequence.refused is None


def channel_of(service: MaskService) -> "Near":
    return Near(service)


class Near:
    def __init__(self, service: MaskService) -> None:
        self.endpoint, self.port = service.endpoint, service


def test_both_ends_say_hello_again_to_a_new_binder() -> None:
    fixed = hello()
    first = MaskService(ANYWHERE)
    endpoint = first.endpoint
    with SequencePort(endpoint, fixed) as sequence:
        link = RemoteReconPort(endpoint).open(fixed.scan_token)
        link.warmed()
        assert sequence.wait_ready(PATIENCE)
        first.close()
        until(lambda: link.hello() is None)
        with MaskService(endpoint):
            sequence.poll(SLICE, 0.0)
            assert sequence.wait_ready(PATIENCE)
            until(lambda: link.hello() is not None)
            link.send(SLICE, CHOSEN, model="", reason="")
            assert sequence.poll(SLICE, soon()) is not None
            link.close()


def test_a_mask_waits_for_a_sequence_that_may_come_back_and_for_no_other() -> None:
    now, posted = [0.0], []
    link = ReconLink("scan", posted.append, clock=lambda: now[0])
    link.receive(hello(scan_token="scan", deadline_ms=1000.0))
    link.receive(Welcome(scan_token="scan", paired=True, ready=True, reason=""))
    broken = Welcome(scan_token="scan", paired=False, ready=False, reason=BROKEN)
    link.receive(broken)
    link.send(SLICE, CHOSEN, model="", reason="")
    assert posted == []
    assert link.due(0.1) == []
    link.receive(Welcome(scan_token="scan", paired=True, ready=True, reason=""))
    [mask] = link.due(0.11)
    assert mask.counters == CHOSEN
    link.receive(broken)
    assert link.due(1.1) == []
    link.receive(Welcome(scan_token="scan", paired=True, ready=True, reason=""))
    assert link.due(1.2) == [], "its deadline has passed"


def test_a_real_scan_gets_in_among_any_number_of_strangers() -> None:
    binder = Binder()
    for number in range(2 * MAX_PEERS):
        binder.receive(b"stranger %d" % number, hello())
    assert len(binder.tokens()) == MAX_PEERS
    fixed = hello()
    binder.receive(0, ReconHello(scan_token=fixed.scan_token, warm=True))
    letters = binder.receive(b"sequence", fixed)
    assert [m.ready for to, m in letters if to == b"sequence" and isinstance(m, Welcome)] == [True]
    for number in range(2 * MAX_PEERS):
        binder.receive(b"late stranger %d" % number, hello())
    assert b"sequence" in binder.tokens(), "who is paired stays"


def test_whoever_makes_room_is_told() -> None:
    binder = Binder()
    for number in range(MAX_PEERS):
        binder.receive(b"stranger %d" % number, hello())
    letters = binder.receive(b"one more", hello())
    told = [m for to, m in letters if to == b"stranger 0"]
    assert isinstance(told[0], ErrorMessage)
    assert "others needed the room" in told[0].detail


def test_an_account_fills_with_the_rate_up_to_the_burst() -> None:
    now = [0.0]
    accounts = Allowances(lambda: now[0])
    n = BURST // LEAST
    assert all(accounts.take("a", 1) for _ in range(n))
    assert not accounts.take("a", 1)
    assert accounts.take("b", BURST), "another one's is full"
    now[0] += LEAST / RATE
    assert accounts.take("a", LEAST)
    assert not accounts.take("a", LEAST)
    assert accounts.refused("a") == 1
    now[0] += 1e6
    assert not accounts.take("a", BURST + 1)


def test_no_number_of_peers_fills_the_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "MAX_KNOWN", 10)
    accounts = Allowances(lambda: 0.0)
    for number in range(100):
        accounts.take(number, 1)
    assert len(accounts._accounts) == 10


def test_one_peer_with_large_hellos_is_read_no_more_than_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    decode = Codec.decode

    def counted(self: Codec, frames: list[bytes]) -> object:
        read.append(sum(map(len, frames)))
        return decode(self, frames)

    large = hello(ky_max=65535, acquirable=tuple(range(65536)), calibration=tuple(range(44, 52)))
    with channel_kind("in process") as channel, pair(channel) as (sequence, link):
        with RawPeer(channel.endpoint) as flood:
            monkeypatch.setattr(allowance, "RATE", 1.0)
            monkeypatch.setattr(Codec, "decode", counted)
            for number in range(100):  # each one another
                flood.say(replace(large, scanner=f"{number}"))
            while "bytes a second" not in flood.hear(ErrorMessage).detail:
                pass
            monkeypatch.undo()
            assert sum(n for n in read if n > 16000) <= BURST
        link.send(SLICE, CHOSEN, model="", reason="")
        assert sequence.poll(SLICE, soon()) is not None


def test_garbage_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with channel_kind("in process") as channel, RawPeer(channel.endpoint) as peer:
        for _ in range(300):
            peer.socket.send_multipart([b"AMSK1", b"garbage " * 50, b""])
        peer.hear(ErrorMessage)
        peer.say(Heartbeat())
        with pair(channel):  # by now all of it was read
            pass
    lines = [r for r in caplog.records if "dropped a message" in r.getMessage()]
    assert 1 <= len(lines) <= 10, "at the 1st, 2nd, 4th, ... 256th"


def test_no_sequence_fills_the_memory_or_the_record_of_a_scan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recon_end, "MAX_SCOPES", 100)
    noted: list[str] = []
    link = ReconLink("scan", lambda message: None, lambda way, what: noted.append(what["kind"]))
    fixed = hello(scan_token="scan")
    link.receive(fixed)
    link.receive(Welcome(scan_token="scan", paired=True, ready=True, reason=""))
    message_id = link.send(SLICE, CHOSEN, model="", reason="")
    said = Applied(
        scan_token="scan",
        scope=SLICE,
        ky_min=0,
        ky_max=95,
        counters=FALLBACK,
        fallback=True,
        reason="",
    )
    for number in range(1000):
        link.receive(said)
        link.receive(replace(said, scope=Scope(slice=number)))
        link.receive(Ack(scan_token="scan", message_id=message_id))
        link.receive(Ack(scan_token="scan", message_id="00000000-0000-0000-0000-000000000000"))
        link.receive(Welcome(scan_token="scan", paired=True, ready=True, reason=""))
    assert noted.count("applied") == 100
    assert noted.count("ack") == recon_end.MAX_ANSWERS
    assert noted.count("welcome") == 1
    assert as_record(link.applied(SLICE) or said)["counters"] == list(FALLBACK)
