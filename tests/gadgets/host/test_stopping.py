"""A host that is to stop lets its scans end, and leaves nothing running, however it is ended."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gadgets.cli import main
from gadgets.host.serve import Host
from gadgets.mrd.messages import ConfigFile, Text, read_message, write_message
from gadgets.mrd.sockets import SocketReader
from gadgets.scanner.client import MrdClient
from gadgets.worker.handle import HUNG_S, Worker
from tests.gadgets.helpers import processes
from tests.gadgets.helpers.closed_loop import N_KY, source
from tests.gadgets.helpers.processes import children, is_running, started

SCAN = source(3)


@dataclass
class Serving:
    process: subprocess.Popen[str]
    port: int

    def stopped(self) -> tuple[int, str]:
        """Wait for its end: status, and what it logged."""
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors

    def stop(self) -> None:
        """Ask it to stop, and wait until it is about to."""
        self.process.terminate()
        self.until("stopping: ")

    def until(self, words: str) -> None:
        """Wait until it has logged something."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return
        raise AssertionError(f"it did not say {words!r}")


@contextmanager
def serving(*options: str) -> Iterator[Serving]:
    with processes.serving(*options, stderr=subprocess.PIPE) as (process, ports):
        yield Serving(process, ports["port"])


def first_image(client: MrdClient) -> None:
    until = time.monotonic() + 60
    while not client.images:
        assert time.monotonic() < until, client.errors
        time.sleep(0.002)


def test_a_scan_that_runs_when_the_host_is_to_stop_gets_all_its_images() -> None:
    with serving() as host, MrdClient("127.0.0.1", host.port) as client:
        client.start("zero_filled.xml", SCAN.header)
        client.send_all(SCAN.acquisitions[: N_KY + 7])
        first_image(client)
        host.stop()
        client.send_all(SCAN.acquisitions[N_KY + 7 :])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", host.port), timeout=20)
        assert len(client.finish()) == 3
        status, errors = host.stopped()
    assert status == 0
    assert "terminate called" not in errors


def test_a_scan_that_does_not_end_is_told_within_the_time_stated() -> None:
    with serving("--stop-s", "0.5") as host, MrdClient("127.0.0.1", host.port) as client:
        client.start("zero_filled.xml", SCAN.header)
        client.send_all(SCAN.acquisitions[: N_KY + 7])
        first_image(client)
        host.stop()
        status, errors = host.stopped()
        assert len(client.errors) == 1
        assert "the host is stopping and takes no further scans" in client.errors[0]
        assert "did not end within 0.5 s" in client.errors[0]
    assert status == 0
    assert "terminate called" not in errors


def test_a_connection_without_a_scan_is_told_at_once() -> None:
    with serving() as host, socket.create_connection(("127.0.0.1", host.port)) as sock:
        sock.settimeout(60)
        sock.sendall(write_message(ConfigFile("zero_filled.xml")))
        host.until("connection from")
        host.process.terminate()
        told = read_message(SocketReader(sock))
        assert isinstance(told, Text)
        assert "ERROR: GadgetsError: the host is stopping" in told.text
        assert host.stopped()[0] == 0


PARENT = """
import os, sys, time
from pathlib import Path
from gadgets.host.child_host import private_host
with private_host(Path(sys.argv[1]), device="cpu") as address:
    print(address.port, flush=True)
    time.sleep(600)
"""


def test_a_killed_command_takes_its_private_host_and_the_worker_along(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with started(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        (host,) = children(parent.pid)
        (worker,) = children(host)
        os.kill(parent.pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while is_running(host) or is_running(worker):
        assert time.monotonic() < until, "a process outlives the command that started it"
        time.sleep(0.01)


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["maskd"]])
def test_a_command_that_cannot_bind_leaves_signals_as_they_were(command: list[str]) -> None:
    """A program that calls it still ends with SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert main([*command, "--mask-endpoint", endpoint, "--quiet"]) == 1
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_worker_whose_front_ended_before_it_could_know_loads_nothing() -> None:
    """The kernel ends it with the front only from when it has asked for that."""
    ours, theirs = socket.socketpair()
    ours.close()
    command = [sys.executable, "-X", "importtime", "-m", "gadgets.worker.process"]
    with theirs:
        done = subprocess.run(
            [*command, str(theirs.fileno()), "cpu"],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert " gadgets.errors\n" in done.stderr
    assert " torch\n" not in done.stderr


def test_a_host_that_is_stopped_while_it_loads_does_not_load_to_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun = threading.Event()
    warm = Worker.warm

    def slow(self: Worker, xml: str, header: str, timeout_s: float) -> bool:
        begun.set()
        os.kill(self.pid, signal.SIGSTOP)  # it would take until it is noticed as hung
        return warm(self, xml, header, timeout_s)

    monkeypatch.setattr(Worker, "warm", slow)
    host = Host(port=0, mask_endpoint="tcp://127.0.0.1:*", device="cpu")
    assert begun.wait(60)
    began = time.monotonic()
    host.close()
    assert time.monotonic() - began < HUNG_S - 5
    assert "cannot start" not in caplog.text
