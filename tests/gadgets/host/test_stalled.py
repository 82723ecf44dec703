"""A peer that takes nothing: its scan alone is held up, for a time, and then ends."""

import gc
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gadgets.host.connection import PeerGone
from gadgets.host.session import CLIENT, PARENT
from gadgets.limits.settings import Limits
from gadgets.mrd.items import Acquisition, Image
from gadgets.mrd.messages import Close, ConfigFile, ConfigScript, Header, write_message
from gadgets.pipeline.build import load
from gadgets.records.reader import read_record
from gadgets.records.writer import SUMMARY, Record
from gadgets.worker.handle import IN_FLIGHT, WorkerPool
from tests.gadgets.helpers.external_parent import QUICK, Link, node_document, plain_loop, upstream
from tests.gadgets.helpers.sessions import served, services
from tests.gadgets.helpers.synthetic import Scanned, scanned

SCAN = scanned(n_x=64, n_slices=40)  # images of 8 kB: what is said and not read fills a socket


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool("cpu")
    yield pool
    pool.close()


def pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection that holds little."""
    near, far = socket.socketpair()
    stack.enter_context(near)
    near.settimeout(60)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return near, far


def said(scan: Scanned, n_slices: int) -> list[bytes]:
    lines = (line for slice_ in range(n_slices) for line in scan.lines(slice_))
    start = [ConfigFile("zero_filled.xml"), Header(scan.header)]
    return [write_message(message) for message in (*start, *lines, Close())]


def test_a_parent_that_takes_no_image_ends_its_scan_and_not_the_reading(
    pool: WorkerPool, tmp_path: Path
) -> None:
    shared = services(
        open_worker=pool.get().open,
        new_record=lambda: Record.create(tmp_path, "scan"),
        limits=Limits(stall_s=0.5),
    )
    lines = [line for slice_ in range(40) for line in upstream(SCAN, slice_)]
    with ExitStack() as stack:
        near, far = pair(stack)
        failures = stack.enter_context(served(far, shared, PARENT))
        for message in (ConfigScript(node_document(QUICK)), Header(SCAN.header), *lines, Close()):
            near.sendall(write_message(message))
    (failure,) = failures
    assert isinstance(failure, PeerGone)
    assert "takes nothing more: it took nothing for 0.5 s" in str(failure)
    kept = [m for m in read_record(tmp_path / "scan") if isinstance(m, Acquisition)]
    assert len(kept) == len(lines)
    summary = json.loads((tmp_path / "scan" / SUMMARY).read_text())
    assert (summary["state"], "it took nothing" in summary["error"]) == ("failed", True)
    assert sum(one["recon_ms"] is not None for one in summary["slices"]) <= 1 + IN_FLIGHT


def test_clients_that_never_read_hold_no_files_and_nobody_up(
    pool: WorkerPool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    shared = services(open_worker=pool.get().open, limits=Limits(stall_s=600))
    n = 5
    with ExitStack() as stack:
        ends = [pair(stack) for _ in range(n)]
        before = len(os.listdir("/proc/self/fd"))
        for near, far in ends:
            stack.enter_context(served(far, shared, CLIENT))
            sender = threading.Thread(target=send, args=(near, said(SCAN, 40)))
            sender.start()
            stack.callback(sender.join)
        until = time.monotonic() + 120
        while caplog.text.count("its scan is set aside") < n and time.monotonic() < until:
            time.sleep(0.05)
        assert caplog.text.count("its scan is set aside") == n
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) < before + n
        near, far = socket.socketpair()
        one = scanned(n_slices=2)
        with near, served(far, shared, CLIENT) as failures:
            near.sendall(b"".join(said(one, 2)))
            link = Link(near)
            assert len(link.rest()) == 3, "two images and CLOSE, while the others hold on"
        assert failures == [None]
        for stalled, _ in ends:
            stalled.shutdown(socket.SHUT_RDWR)


def send(sock: socket.socket, messages: list[bytes]) -> None:
    """Send until the test ends."""
    try:
        for message in messages:
            sock.sendall(message)
    except OSError:
        pass


def test_what_is_dropped_is_not_reconstructed_and_leaves_no_file_in_the_worker(
    pool: WorkerPool,
) -> None:
    worker = pool.get()
    images: list[Image] = []
    one = scanned(n_slices=1)
    (expected,) = plain_loop(one, load("zero_filled.xml"), one.lines())
    assert expected.data.size
    before = files_of(worker.pid)
    scan = worker.open(load("zero_filled.xml"), one.header.decode(), images.append)
    os.kill(worker.pid, signal.SIGSTOP)
    frame = frames(one)
    for _ in range(IN_FLIGHT):
        scan.put(frame)
    scan.drop()
    os.kill(worker.pid, signal.SIGCONT)
    assert scan.over.wait(60)
    assert len(images) < IN_FLIGHT
    until = time.monotonic() + 20
    while files_of(worker.pid) > before and time.monotonic() < until:
        time.sleep(0.05)
    assert files_of(worker.pid) <= before


def files_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def frames(one: Scanned):  # type: ignore[no-untyped-def]
    """Return a frame as the front hands it over."""
    from gadgets.mrd.items import Frame
    from gadgets.pipeline.build import parse
    from gadgets.pipeline.chain import chain, split
    from gadgets.pipeline.intake import intake
    from gadgets.pipeline.scan import Scan

    scan = Scan(geometry=one.geometry)
    front = split(parse(load("zero_filled.xml")))[0]
    found = [i for i in chain(front, scan, intake(scan, one.lines())) if isinstance(i, Frame)]
    return found[0]
