"""What is on record when something goes wrong: every line that came, and what became of it."""

import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gadgets.errors import ConfigError, GadgetError
from gadgets.host import scan_run
from gadgets.host import session as session_module
from gadgets.host.prometheus import Metrics
from gadgets.host.serve import Host, new_record
from gadgets.host.session import CLIENT, PARENT
from gadgets.mrd.items import Acquisition, Image
from gadgets.mrd.messages import Close, ConfigFile, ConfigScript, Header, write_message
from gadgets.records.folder import RecordFolder
from gadgets.records.reader import read_record
from gadgets.records.writer import MASKS, MESSAGES, SUMMARY, Record
from gadgets.steps.accumulate import AccumulateFrame
from gadgets.worker.handle import WorkerScan
from tests.gadgets.helpers.external_parent import Link, failed, upstream
from tests.gadgets.helpers.sessions import served, services
from tests.gadgets.helpers.synthetic import changed, scanned

FRAMES = b'<configuration><gadget class="AccumulateFrame"/></configuration>'
SCAN = scanned(n_slices=2)
LINES = [changed(line, scan_counter=n) for n, line in enumerate(upstream(SCAN) + upstream(SCAN, 1))]


def lines_of(folder: Path) -> list[bytes]:
    kept = [m for m in read_record(folder) if isinstance(m, Acquisition)]
    return [write_message(line) for line in kept]


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
    return summary


def node_session(**shared: Any) -> str:
    """Run a whole scan without heavy gadgets; returns the failure that was told, "" if none."""
    near, far = socket.socketpair()
    with near, served(far, services(**shared), PARENT):
        link = Link(near)
        link.start(FRAMES, SCAN.header)
        link.send_all(LINES)
        link.close()
        messages = link.rest()
    return failed(messages) if len(messages) > 1 else ""


@pytest.mark.parametrize(
    "error",
    [MemoryError("no room"), IndexError("at 5"), TypeError("of None"), OSError(5, "I/O error")],
)
def test_whatever_fails_in_a_pipeline_all_lines_are_on_record_and_the_peer_is_told(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(gadget: AccumulateFrame, scan: object, items: Iterator[Any]) -> Iterator[Any]:
        for _ in range(2):
            next(items)
        raise error
        yield  # a generator, as the real one

    monkeypatch.setattr(AccumulateFrame, "__call__", fails)
    text = node_session(new_record=lambda: Record.create(tmp_path, "scan"))
    assert type(error).__name__ in text
    assert lines_of(tmp_path / "scan") == [write_message(line) for line in LINES]
    summary = summary_of(tmp_path / "scan")
    assert summary["state"] == "failed"
    assert type(error).__name__ in summary["error"]
    assert summary["persisted_scan_counter"] == len(LINES) - 1


@pytest.mark.parametrize("where", ["link", "sum up"])
def test_what_fails_beside_the_pipeline_leaves_all_lines_and_the_state_failed(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise IndexError("list index out of range")

    if where == "link":
        monkeypatch.setattr(scan_run.ScanRun, "_link", fails)
    else:
        monkeypatch.setattr(scan_run, "summary", fails)
    text = node_session(new_record=lambda: Record.create(tmp_path, "scan"))
    assert "IndexError" in text
    assert lines_of(tmp_path / "scan") == [write_message(line) for line in LINES]
    assert summary_of(tmp_path / "scan")["state"] == "failed"
    assert "IndexError" in summary_of(tmp_path / "scan")["error"]


class Unreachable:
    """A worker that takes nothing any more, nor that the scan is over."""

    def send(self, *_: object) -> None:
        raise GadgetError("the reconstruction worker cannot be reached")

    def weigh(self) -> None:
        pass


def test_a_worker_that_cannot_be_told_to_stop_costs_no_line(tmp_path: Path) -> None:
    near, far = socket.socketpair()

    def opened(xml: str, header: str, on_image: Callable[[Image], None]) -> WorkerScan:
        return WorkerScan(Unreachable(), "scan", on_image)  # type: ignore[arg-type]

    shared = services(open_worker=opened, new_record=lambda: Record.create(tmp_path, "scan"))
    lines = [line for slice_ in range(2) for line in SCAN.lines(slice_)]
    with near, served(far, shared, CLIENT) as failures:
        near.sendall(write_message(ConfigFile("zero_filled.xml")))
        near.sendall(write_message(Header(SCAN.header)))
        for line in lines:
            near.sendall(write_message(line))
        near.sendall(write_message(Close()))
        assert b"cannot be reached" in near.recv(1 << 16)
    assert isinstance(failures[0], GadgetError)
    assert lines_of(tmp_path / "scan") == [write_message(line) for line in lines]
    assert summary_of(tmp_path / "scan")["state"] == "failed"


def test_the_summary_is_there_before_the_first_line_and_says_what_is_running(
    tmp_path: Path,
) -> None:
    near, far = socket.socketpair()
    begun = threading.Event()

    def new() -> Record:
        record = Record.create(tmp_path, "scan")
        begin = record.begin

        def noted(about: dict[str, Any]) -> None:
            begin(about)
            begun.set()

        record.begin = noted  # type: ignore[method-assign, assignment]
        return record

    with near, served(far, services(new_record=new), PARENT):
        link = Link(near)
        link.start(FRAMES, SCAN.header)
        assert begun.wait(20)
        summary = summary_of(tmp_path / "scan")
        assert summary["state"] == "running"
        assert "AccumulateFrame" in summary["pipeline"]
        link.send_all(LINES)
        link.close()
        link.rest()
    assert summary_of(tmp_path / "scan")["state"] == "ended"


# Disks that are full.


def n_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the disk be full from the start of a record, or after its first message."""
    really = os.writev
    n = 0

    def full(when: str) -> None:
        def writev(file: int, buffers: Any) -> int:
            nonlocal n
            n += 1
            if when == "start" or n % 3 == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return really(file, buffers)

        monkeypatch.setattr(os, "writev", writev)

    return full


@pytest.mark.parametrize("when", ["start", "later"])
def test_six_hundred_scans_on_a_full_disk_leave_no_file_open_and_are_counted(
    when: str, full: Callable[[str], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    full(when)
    metrics = Metrics()
    folder = RecordFolder(tmp_path, lost=metrics.unrecorded.inc)
    said = [ConfigScript(FRAMES), Header(SCAN.header), *LINES[:2], Close()]
    message = b"".join(map(write_message, said))
    before = n_files()
    for _ in range(600):
        near, far = socket.socketpair()
        with near:
            near.sendall(message)
            session_module.serve(far, services(new_record=lambda: new_record(folder)), PARENT)
    assert n_files() <= before
    assert metrics.registry.get_sample_value("mnet_scans_unrecorded_total") == 600


def test_scans_that_cannot_be_recorded_are_refused_where_the_host_is_told_so(
    full: Callable[[str], None], tmp_path: Path
) -> None:
    full("start")
    folder = RecordFolder(tmp_path, "refuse")
    assert "cannot be recorded" in node_session(new_record=lambda: new_record(folder))


def test_a_host_that_shall_record_is_not_ready_until_it_can_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RecordFolder(tmp_path, "not-ready")
    with monkeypatch.context() as patch:

        def no_room(path: Path, *_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(Path, "mkdir", no_room)
        assert new_record(folder) is None
        assert "scans are not recorded: [Errno 28]" in folder.trouble()
        assert RecordFolder(tmp_path, "go-on").trouble() == ""
    assert folder.trouble() == ""
    assert list(tmp_path.iterdir()) == []


def test_a_host_does_not_start_on_a_folder_that_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="nothing can be written in"):
        Host(port=0, mask_endpoint="tcp://127.0.0.1:*", records=tmp_path / "file" / "records")


def test_a_summary_that_does_not_fit_the_disk_leaves_no_part_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record.create(tmp_path, "scan")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    record.begin({"pipeline": ""})
    record.close()
    assert {path.name for path in record.folder.iterdir()} == {MESSAGES, MASKS}
