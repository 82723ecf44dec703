"""What one client may take of a host: sessions, silence, files."""

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from gadgets.errors import ConfigError
from gadgets.host import serve as serve_module
from gadgets.host.child_host import Address
from gadgets.host.serve import Host
from gadgets.host.session import PARENT
from gadgets.limits.admission import FILES_OF_A_SESSION, FILES_OF_THE_HOST, make_room_for_files
from gadgets.limits.settings import Limits
from gadgets.limits.waiting import prepare
from gadgets.mrd.messages import Close, ConfigFile, write_message
from gadgets.scanner.client import MrdClient
from gadgets.worker.handle import IN_FLIGHT
from tests.gadgets.helpers.closed_loop import source
from tests.gadgets.helpers.external_parent import (
    CLOSE,
    ERROR,
    Link,
    acquisition_bytes,
    failed,
    upstream,
)
from tests.gadgets.helpers.peer import connected, error
from tests.gadgets.helpers.processes import serving
from tests.gadgets.helpers.sessions import served, services
from tests.gadgets.helpers.synthetic import scanned

FRAMES = b'<configuration><gadget class="AccumulateFrame"/></configuration>'


class NoWorker:
    """In place of the worker: none of these sessions comes so far."""

    device = "none"

    def __init__(self, *_: object) -> None:
        pass

    def get(self) -> "NoWorker":
        return self

    def warm(self, *_: object) -> None:
        """Nothing to load."""

    def queued(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Host]]:
    with ExitStack() as hosts:

        def start(**limits: float) -> Host:
            monkeypatch.setattr(serve_module, "WorkerPool", NoWorker)
            return hosts.enter_context(
                Host(
                    port=0,
                    external_port=0,
                    mask_endpoint="tcp://127.0.0.1:*",
                    device="cpu",
                    status_port=0,
                    limits=Limits(**limits),  # type: ignore[arg-type]
                )
            )

        yield start


def address(host: Host) -> Address:
    return Address(host="127.0.0.1", port=host.port, mask_endpoint=host.mask_endpoint)


def test_a_session_too_many_is_refused_in_words_and_has_its_place_when_one_ends(
    start: Callable[..., Host],
) -> None:
    host = start(sessions=2)
    with connected(address(host)) as first, connected(address(host)):
        with connected(address(host)) as third:
            third.say(ConfigFile("isalive.xml"), Close())
            assert "the host serves 2 sessions" in error(third.rest())
        assert host.external_port is not None
        with socket.create_connection(("127.0.0.1", host.external_port), 60) as sock:
            told, end = Link(sock).rest()
            assert (told.id, end.id) == (ERROR, CLOSE)
            assert "the host serves 2 sessions" in told.text
        assert "mnet_sessions_refused_total 2.0" in host.metrics.text().decode()
        first.say(ConfigFile("isalive.xml"), Close())
        assert first.rest() == [Close()]
        answer = None
        until = time.monotonic() + 20
        while answer != [Close()] and time.monotonic() < until:  # it ends after its last word
            with connected(address(host)) as fourth:
                fourth.say(ConfigFile("isalive.xml"), Close())
                answer = fourth.rest()
        assert answer == [Close()]


def test_a_connection_that_says_nothing_ends_and_is_told_why(start: Callable[..., Host]) -> None:
    host = start(header_s=0.2)
    with connected(address(host)) as peer:
        assert "the client vanished: it sent nothing for 0.2 s" in error(peer.rest())
    with connected(address(host)) as peer:
        peer.say(ConfigFile("zero_filled.xml"))
        assert "it sent nothing for 0.2 s" in error(peer.rest())


def test_a_scan_may_pause_for_longer_than_a_session_without_header_and_not_for_ever() -> None:
    scan = scanned()
    near, far = socket.socketpair()
    shared = services(limits=Limits(header_s=0.05, scan_s=0.4))
    with near, served(far, shared, PARENT) as failures:
        link = Link(near)
        link.start(FRAMES, scan.header)
        first, *_ = upstream(scan)
        time.sleep(0.2)
        near.sendall(acquisition_bytes(first))
        began = time.monotonic()
        assert "it sent nothing for 0.4 s" in failed(link.rest())
        assert 0.3 < time.monotonic() - began < 20
    assert failures[0] is not None


def test_a_connection_asks_a_silent_peer_within_seconds_and_never_waits_to_fill_a_packet() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        prepare(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 30


@pytest.mark.parametrize("limits", [{"sessions": 0}, {"stall_s": 0.0}, {"header_s": -1.0}])
def test_limits_that_leave_nothing_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected more than 0"):
        Limits(**limits)  # type: ignore[arg-type]


@contextmanager
def files_allowed(soft: int, hard: int | None = None) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_files_are_made_room_for_or_the_host_does_not_start() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with files_allowed(256):
        make_room_for_files(6)
        needed = FILES_OF_THE_HOST + 6 * FILES_OF_A_SESSION
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == needed
        with pytest.raises(ConfigError, match=r"need \d+ open files, and \d+ are allowed"):
            make_room_for_files(hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == needed


def test_a_session_is_counted_with_every_item_that_may_wait_for_the_worker() -> None:
    socket_and_record = 4
    assert IN_FLIGHT + socket_and_record <= FILES_OF_A_SESSION


def test_the_files_of_the_default_sessions_fit_what_systems_allow_without_asking() -> None:
    assert FILES_OF_THE_HOST + Limits().sessions * FILES_OF_A_SESSION <= 1024


def probe(sock: socket.socket) -> str:
    """Ask for readiness on a connection that is there already."""
    sock.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
    answer = b""
    while part := sock.recv(4096):
        answer += part
    return answer.decode()


def test_a_host_that_cannot_take_connections_is_not_ready_and_says_why(
    start: Callable[..., Host],
) -> None:
    host = start()
    host.wait_warm()
    assert host.status_port is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(4)]
        clients = [stack.enter_context(socket.socket()) for _ in range(2)]
        lowest_free = os.dup(0)
        os.close(lowest_free)
        for sock in (*probes, *clients):
            sock.settimeout(20)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            for sock in clients:  # the accept that waits has its descriptor already
                sock.connect(("127.0.0.1", host.port))
            until = time.monotonic() + 20
            while not host.unready() and time.monotonic() < until:
                time.sleep(0.01)
            for sock in probes[:2]:
                sock.connect(("127.0.0.1", host.status_port))
                answer = probe(sock)
                assert " 503 " in answer
                assert "no connection of a client can be taken" in answer
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        clients[1].sendall(write_message(ConfigFile("isalive.xml")) + write_message(Close()))
        assert clients[1].recv(100) == write_message(Close())
        assert host.unready() == ""
        probes[2].connect(("127.0.0.1", host.status_port))
        assert " 200 " in probe(probes[2])


@contextmanager
def process(*options: str, files: int) -> Iterator[dict[str, int]]:
    """`mnet serve` with so many files, also for its worker; gives its ports."""
    limited = ("bash", "-c", f'ulimit -n {files}; exec "$@"', "bash")
    with serving("--quiet", *options, before=limited) as (_, ports):
        yield ports


@pytest.mark.slow
def test_eleven_hundred_connections_under_a_limit_of_1024_files_do_not_make_a_host_deaf() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n, data = 1100, source(1)
    if hard < n + 100:
        pytest.skip(f"this system allows {hard} files, and the client needs {n}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n + 100), hard))
    try:
        with process(files=1024) as ports:
            with ExitStack() as stack:
                for _ in range(n):
                    stack.enter_context(
                        socket.create_connection(("127.0.0.1", ports["port"]), timeout=60)
                    )
            images = []
            until = time.monotonic() + 60
            while not images and time.monotonic() < until:
                there = Address(host="127.0.0.1", port=ports["port"], mask_endpoint="")
                with connected(there) as peer:
                    peer.say(ConfigFile("isalive.xml"), Close())
                    if peer.rest() != [Close()]:
                        continue  # the last of the others are still leaving
                with MrdClient("127.0.0.1", ports["port"]) as client:
                    client.start("zero_filled.xml", data.header)
                    client.send_all(data.acquisitions)
                    images = client.finish()
            assert len(images) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
