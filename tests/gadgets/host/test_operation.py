"""What a hospital's monitoring sees: metrics, probes, logs. Nothing in them names a patient."""

import json
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch import nn

from gadgets import logs
from gadgets.errors import ConfigError, GadgetsError, HeaderError, ProtocolError
from gadgets.host import prometheus, rehearsal
from gadgets.host import serve as serve_module
from gadgets.host.child_host import Address
from gadgets.host.connection import PeerGone
from gadgets.host.health_server import StatusServer
from gadgets.host.serve import Host
from gadgets.mrd.messages import Close, ConfigFile, Header, Text, read_message, write_message
from gadgets.mrd.sockets import SocketReader
from gadgets.pipeline.build import load, parse
from gadgets.pipeline.chain import split
from gadgets.scanner.client import MrdClient
from gadgets.scanner.sequence import play
from tests.gadgets.helpers.closed_loop import N_KY, sequence, source
from tests.gadgets.helpers.synthetic import Fixed

PATIENT = "DOE^JANE"


class Shown:
    """The values of a host, by sample name and labels."""

    def __init__(self, host: Host) -> None:
        """Begin where nothing is open: the session of an earlier test may still be ending."""
        self._host = host
        until = time.monotonic() + 20
        while self.now()[("mnet_sessions_open",)] and time.monotonic() < until:
            time.sleep(0.01)
        self._before = self.now()
        assert self._before[("mnet_sessions_open",)] == 0

    def now(self) -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(self._host.metrics.text().decode())
        samples = [sample for family in families for sample in family.samples]
        return {(s.name, *s.labels.values()): s.value for s in samples}

    def grew(self, *name: str) -> float:
        return self.now().get(name, 0.0) - self._before.get(name, 0.0)

    def until(self, n: float, *name: str) -> bool:
        """Wait for a value: the end of a session comes after the client's."""
        until = time.monotonic() + 20
        while self.grew(*name) != n and time.monotonic() < until:
            time.sleep(0.01)
        return self.grew(*name) == n


def test_a_closed_loop_is_counted_line_by_line_mask_by_mask_image_by_image(
    host: Host, address: Address
) -> None:
    shown = Shown(host)
    played, images = play(source(3), sequence(), address, "adaptive_modl.xml")
    assert not any(one.fallback for one in played)
    assert shown.until(0, "mnet_sessions_open")
    assert shown.grew("mnet_sessions_total") == 1
    assert shown.grew("mnet_acquisitions_total") == sum(len(one.counters) for one in played)
    assert shown.grew("mnet_masks_predicted_total") == 3
    assert shown.grew("mnet_masks_sent_total") == 3
    assert shown.grew("mnet_mask_answers_total", "ack") == 3
    assert shown.grew("mnet_mask_seconds_count") == 3
    assert shown.grew("mnet_reconstruction_seconds_count") == 3
    assert shown.grew("mnet_images_total") == len(images)
    assert all(shown.grew("mnet_fallbacks_total", why) == 0 for why in prometheus.FALLBACKS)
    assert shown.now()[("mnet_queue_items",)] == 0
    assert shown.now()[("mnet_ready",)] == 1


def test_a_mask_that_the_sequence_did_not_take_counts_as_a_fallback_once(
    host: Host, address: Address
) -> None:
    shown = Shown(host)
    hurried = replace(sequence(seed=3), deadline_ms=0.01)
    played, _ = play(source(2), hurried, address, "adaptive_modl.xml")
    n = sum(one.fallback for one in played)
    assert n
    assert shown.grew("mnet_fallbacks_total", "not_taken") == n


def test_masks_that_nobody_could_be_sent_count_as_fallbacks_not_sent(
    host: Host, address: Address
) -> None:
    shown, scan = Shown(host), source(2)
    with MrdClient(address.host, address.port) as client:
        client.start("adaptive_modl.xml", scan.header)
        client.send_all(scan.acquisitions)
        client.finish()
    assert shown.grew("mnet_fallbacks_total", "not_sent") == 2
    assert shown.grew("mnet_masks_sent_total") == 0
    assert shown.grew("mnet_acquisitions_total") == 2 * N_KY


def test_what_a_scan_counts_is_shown_in_the_gadgets_own_words(host: Host, address: Address) -> None:
    shown, scan = Shown(host), source(1)
    with MrdClient(address.host, address.port) as client:
        client.start("zero_filled.xml", scan.header)
        client.send_all([scan.acquisitions[0], *scan.acquisitions])
        client.finish()
    assert shown.until(1, "mnet_oddities_total", "doubled lines")


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("x"), "config"),
        (HeaderError("x"), "header"),
        (ProtocolError("x"), "protocol"),
        (EOFError("x"), "connection"),
        (ConnectionResetError("x"), "connection"),
        (GadgetsError("x"), "internal"),
        (raised_from(PeerGone("x"), EOFError("x")), "connection"),
        (raised_from(RuntimeError("x"), OSError("x")), "internal"),
        (KeyError("x"), "internal"),
    ],
)
def test_every_failure_has_a_kind(error: BaseException, kind: str) -> None:
    every = prometheus.Metrics()
    prometheus.Meter(every).failed(error)
    assert every.registry.get_sample_value("mnet_failures_total", {"kind": kind}) == 1


def failing_session(address: Address, name: str, header: bytes, text: str = "") -> None:
    with socket.create_connection((address.host, address.port), timeout=30) as sock:
        sock.sendall(write_message(ConfigFile(name)))
        sock.sendall(write_message(Header(header)))
        if text:
            sock.sendall(write_message(Text(text)))
        sock.sendall(write_message(Close()))
        while sock.recv(1 << 16):
            pass


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the root logger writes as JSON meanwhile."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    written: list[str] = []
    handler, root = Keep(), logging.getLogger()
    handler.setFormatter(logs.JsonFormatter())
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def named(header: bytes) -> bytes:
    """A header with a patient, in front of everything else."""
    patient = f"<subjectInformation><patientName>{PATIENT}</patientName></subjectInformation>"
    start = header.index(b">", header.index(b"<ismrmrdHeader")) + 1
    return header[:start] + patient.encode() + header[start:]


def test_neither_logs_nor_metrics_name_the_patient_also_where_sessions_fail(
    host: Host, address: Address, lines: list[str]
) -> None:
    shown, scan = Shown(host), source(1)
    header = named(scan.header)
    with MrdClient(address.host, address.port) as client:
        client.start("adaptive_modl.xml", header)
        client.send_all(scan.acquisitions)
        client.send(Text(f"patient {PATIENT}"))
        assert client.finish()
    failing_session(address, "no such.xml", header)
    failing_session(address, "cg_sense.xml", header.replace(b"</encoding>", b""))
    failing_session(address, "cg_sense.xml", header.replace(b"<x>", b"<x>many"))
    failing_session(address, "cg_sense", header, f'{{"parameters": {{"lam": "{PATIENT}"}}}}')
    assert shown.until(5, "mnet_sessions_total")
    assert shown.until(0, "mnet_sessions_open")
    assert any("sent a text of" in line for line in lines)
    assert sum(json.loads(line)["level"] == "ERROR" for line in lines) >= 4
    assert PATIENT not in "".join(lines)
    assert PATIENT not in host.metrics.text().decode()


def test_every_line_of_a_scan_has_the_id_that_its_record_has_too(
    host: Host, address: Address, records: Path, lines: list[str]
) -> None:
    before = set(records.iterdir())
    play(source(2), sequence(), address, "adaptive_modl.xml")
    (folder,) = set(records.iterdir()) - before
    entries = [json.loads(line) for line in lines]
    masks = [e for e in entries if e["logger"] == "gadgets.steps.predict_mask"]
    assert len(masks) == 2
    assert {folder.name.rpartition("-")[2]} == {e["scan"] for e in masks}


def test_two_scans_have_two_ids_also_in_one_thread() -> None:
    assert logs.new_scan() != logs.new_scan()
    logs.scan_id.set("")


def test_an_exception_is_one_line_of_json_and_a_child_process_logs_alike() -> None:
    child = "from gadgets import logs; import logging; logs.configure(logging.INFO)\n"
    child += "logging.getLogger('child').info('two\\nlines')"
    parent = (
        "import logging, subprocess, sys; from gadgets import logs\n"
        "logs.configure(logging.INFO, as_json=True); logs.scan_id.set('abc')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.exception('failed on %s', 'purpose')\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, check=True
    )
    ours, childs = map(json.loads, done.stderr.splitlines())
    assert (ours["message"], ours["scan"], ours["level"]) == ("failed on purpose", "abc", "ERROR")
    assert ours["exception"].endswith("ZeroDivisionError")
    assert "division by zero" not in done.stderr, "a message may quote what a client said"
    assert childs["message"] == "two\nlines"
    assert "scan" not in childs
    assert childs["pid"] != ours["pid"]


def test_a_log_that_gadgetron_has_set_up_leaves_messages_of_exceptions_out_too() -> None:
    child = (
        "import logging, threading; from gadgets import logs\n"
        "logging.basicConfig(format='[ext.] %(message)s')\n"
        "logs.guard()\n"
        "try: int('Jane')\n"
        "except ValueError: logging.exception('failed')\n"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("[ext.] failed\nTraceback, messages left out")
    assert done.stderr.endswith("ValueError\n")
    assert "invalid literal" not in done.stderr


def test_an_exception_that_ends_a_thread_is_logged_without_its_message() -> None:
    child = (
        "import logging, threading; from gadgets import logs\n"
        "logs.configure(logging.INFO)\n"
        "one = threading.Thread(target=lambda: int(' '.join(['Jane', 'Doe'])))\n"
        "one.start(); one.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert "a thread failed" in done.stderr
    assert "Jane Doe" not in done.stderr


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_probes_say_what_is_wrong_and_nothing_else_is_served() -> None:
    why = {"trouble": "", "unready": "the weights are missing"}
    server = StatusServer(
        0, trouble=lambda: why["trouble"], unready=lambda: why["unready"], metrics=lambda: b"a 1\n"
    )
    try:
        assert get(server.port, "/healthz") == (200, "ok\n")
        assert get(server.port, "/readyz") == (503, "the weights are missing\n")
        why |= {"trouble": "no worker", "unready": ""}
        assert get(server.port, "/healthz") == (503, "no worker\n")
        assert get(server.port, "/readyz") == (200, "ok\n")
        assert get(server.port, "/metrics") == (200, "a 1\n")
        assert get(server.port, "/records")[0] == 404
        with pytest.raises(OSError, match="in use"):
            StatusServer(server.port, trouble=str, unready=str, metrics=bytes)
    finally:
        server.close()


class Warming:
    """In place of the worker: warm when it is told to."""

    device = "cpu"

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self.go = threading.Event()

    def __call__(self, device: str, own: object, queue_gb: float) -> "Warming":
        return self

    def get(self) -> "Warming":
        return self

    def warm(self, *arguments: object) -> None:
        assert self.go.wait(20)
        if self._error is not None:
            raise self._error

    def queued(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Warming], Host]]:
    hosts: list[Host] = []

    def start(worker: Warming) -> Host:
        monkeypatch.setattr(serve_module, "WorkerPool", worker)
        hosts.append(Host(port=0, mask_endpoint="tcp://127.0.0.1:*", device="cpu", status_port=0))
        return hosts[0]

    yield start
    for host in hosts:
        host.close()


def readiness(host: Host) -> tuple[int, str]:
    assert host.status_port is not None
    return get(host.status_port, "/readyz")


def test_a_host_is_alive_at_once_and_ready_when_a_mask_was_predicted(
    start: Callable[[Warming], Host],
) -> None:
    worker = Warming(None)
    host = start(worker)
    assert host.status_port is not None
    assert get(host.status_port, "/healthz") == (200, "ok\n")
    assert readiness(host) == (503, "the models are being loaded\n")
    worker.go.set()
    host.wait_warm()
    assert readiness(host) == (200, "ok\n")
    assert "mnet_ready 1.0" in get(host.status_port, "/metrics")[1]


def test_a_host_without_weights_is_alive_but_never_ready(
    start: Callable[[Warming], Host], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mnet.weight_files.folder", lambda: tmp_path)
    worker = Warming(None)
    host = start(worker)
    worker.go.set()
    host.wait_warm()
    status, why = readiness(host)
    assert (status, "no weights 'mnet_select'" in why) == (503, True)
    assert get(host.status_port or 0, "/healthz")[0] == 200, "a restart would not help"


def test_a_host_that_cannot_start_is_not_healthy(start: Callable[[Warming], Host]) -> None:
    worker = Warming(GadgetsError("no worker"))
    host = start(worker)
    worker.go.set()
    with pytest.raises(GadgetsError, match="no worker"):
        host.wait_warm()
    assert get(host.status_port or 0, "/healthz") == (503, "the host cannot start: no worker\n")
    assert readiness(host)[0] == 503


class Broken(nn.Module):
    """A sampler whose logits are not finite."""

    def forward(self, z: torch.Tensor, *rest: object) -> torch.Tensor:
        return torch.full((1, z.shape[-1]), float("nan"))


def test_a_sampler_that_fails_is_not_ready_though_a_fallback_would_hide_it() -> None:
    front = split(parse(load("adaptive_modl.xml")))[0]
    assert "not finite" in rehearsal.rehearse(front, Fixed(mnet_select=Broken()))
    assert "no mask" in rehearsal.rehearse(front[:2], SimpleNamespace())  # type: ignore[arg-type]


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_host_that_ran_out_of_descriptors_answers_once_it_has_some_again(
    start: Callable[[Warming], Host], caplog: pytest.LogCaptureFixture
) -> None:
    worker = Warming(None)
    host = start(worker)
    worker.go.set()
    host.wait_warm()
    with socket.socket() as first, socket.socket() as second:
        with no_descriptor_left():
            # The one accept that waits has its descriptor already; it is the next that gets none.
            for sock in (first, second):
                sock.settimeout(20)
                sock.connect(("127.0.0.1", host.port))
            time.sleep(3.5 * serve_module.ACCEPT_AGAIN_S)
        second.sendall(write_message(ConfigFile("isalive.xml")) + write_message(Close()))
        assert read_message(SocketReader(second)) == Close()
    assert caplog.text.count("Too many open files") == 1, "it is tried often and said once"


def test_a_host_that_closes_takes_no_connection_more(start: Callable[[Warming], Host]) -> None:
    before = set(threading.enumerate())
    worker = Warming(None)
    host = start(worker)
    (accepting,) = [t for t in set(threading.enumerate()) - before if t.name == "accept"]
    worker.go.set()
    host.close()
    accepting.join(20)
    assert not accepting.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", host.port), timeout=20)
