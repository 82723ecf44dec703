"""The monitor's process and what it answers: the page, its events, probes, and nothing else."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gadgets.cli import main
from gadgets.monitor import monitor as module
from gadgets.monitor import process
from gadgets.monitor.monitor import Monitor

pytest.importorskip("uvicorn")


class Front:
    """A host, made up: what it says of itself when it is asked."""

    def __init__(self) -> None:
        self.trouble, self.unready, self.queued = "", "the models are being loaded", 3.0
        self.asked = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def metrics(self) -> bytes:
        self.asked.set()
        assert self.go.wait(60)
        return b"mnet_ready 0.0\n"


@pytest.fixture
def front() -> Front:
    return Front()


@pytest.fixture
def monitor(front: Front) -> Iterator[Monitor]:
    made = Monitor(0, 0)
    made.start(
        trouble=lambda: front.trouble,
        unready=lambda: front.unready,
        metrics=front.metrics,
        queued=lambda: front.queued,
    )
    yield made
    front.go.set()
    made.close()


def ask(
    port: int | None, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    assert port is not None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    response = connection.getresponse()
    text = response.read().decode(errors="replace")
    connection.close()
    return response.status, text, response.headers


class Stream:
    """The events of a monitor as a browser gets them."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.request("GET", "/events")
        self.response = self._connection.getresponse()

    def next(self) -> dict[str, Any]:
        line = self.response.readline()
        while not line.startswith(b"data: "):
            assert line, "the stream has ended"
            line = self.response.readline()
        message: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
        return message

    def until(self, kind: str) -> dict[str, Any]:
        """Return the first message with a scan in it, or with the state of the host."""
        while not (message := self.next()).get(kind):
            pass
        return message

    def close(self) -> None:
        self.response.close()
        self._connection.close()


def test_both_ports_answer_probes_as_the_status_server_does(front: Front, monitor: Monitor) -> None:
    for port in (monitor.port, monitor.status_port):
        assert ask(port, "/healthz")[:2] == (200, "ok\n")
        assert ask(port, "/readyz")[:2] == (503, "the models are being loaded\n")
        assert ask(port, "/metrics")[:2] == (200, "mnet_ready 0.0\n")
    front.trouble, front.unready = "no worker", ""
    assert ask(monitor.status_port, "/healthz")[:2] == (503, "no worker\n")
    assert ask(monitor.port, "/readyz")[:2] == (200, "ok\n")


def test_what_is_told_is_streamed_and_then_all_of_it_to_who_comes_later(monitor: Monitor) -> None:
    first = Stream(monitor.port)
    assert first.response.headers["Content-Type"].startswith("text/event-stream")
    state = first.until("host")
    assert state["all"]
    assert state["host"]["unready"] == "the models are being loaded"
    assert state["host"]["queued"] == 3
    told = {"kind": "lines", "scan": "a", "slice": 4, "repetition": 0, "counters": [7, 8]}
    monitor.feed.tell(told)
    monitor.feed.tell(
        {"kind": "image", "scan": "a", "slice": 4, "repetition": 0, "height": 1, "width": 1}
        | {"ms": None},
        b"\xff",
    )
    row: dict[str, Any] = {}
    while "image" not in row:  # one message or two
        (row,) = first.until("scans")["scans"][0]["rows"]
    assert (row["slice"], row["got"]) == (4, [7, 8])
    later = Stream(monitor.port)
    message = later.until("scans")
    assert message["all"]
    assert message["scans"][0]["rows"][0]["image"]["n"] == 1
    status, _, headers = ask(monitor.port, "/image/a/4?n=1")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert ask(monitor.port, "/image/a/5")[0] == ask(monitor.port, "/image/b/4")[0] == 404
    first.close()
    later.close()


def test_nothing_can_be_changed_and_a_page_of_another_name_reads_nothing(monitor: Monitor) -> None:
    for path in ("/", "/events", "/metrics", "/image/a/0"):
        for method in ("POST", "PUT", "DELETE"):
            assert ask(monitor.port, path, method)[0] == 405
        assert ask(monitor.port, path, host="evil.example")[0] == 400
    for path in ("/records", "/../process.py", "/page/index.html", "/docs", "/openapi.json"):
        assert ask(monitor.port, path)[0] == 404


def test_the_page_may_load_from_its_own_address_alone(monitor: Monitor) -> None:
    for path in ("/", "/page.css", "/page.js", "/plane.js"):
        status, text, headers = ask(monitor.port, path)
        assert status == 200
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "http://" not in text
        assert "https://" not in text


@pytest.mark.slow
def test_a_front_that_hangs_is_not_healthy(
    front: Front, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.go.clear()
    waits = threading.Thread(target=ask, args=(monitor.port, "/metrics"), daemon=True)
    waits.start()
    assert front.asked.wait(60)
    assert ask(monitor.port, "/healthz")[:2] == (503, "the host does not answer\n")
    assert process.ANSWER_S <= 5
    front.go.set()
    waits.join(60)
    assert ask(monitor.port, "/healthz")[:2] == (200, "ok\n"), "late answers are passed over"


def test_a_process_that_is_killed_is_started_again_on_the_same_ports(
    monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(monitor.port, "/healthz")[0] == 200
    assert monitor.pid is not None
    before = monitor.pid
    os.kill(before, signal.SIGKILL)
    try:
        status = ask(monitor.port, "/healthz")[0]
    except (ConnectionError, http.client.HTTPException):  # the one that died had taken it
        status = ask(monitor.port, "/healthz")[0]
    assert status == 200
    assert monitor.pid != before
    assert "starting another" in caplog.text
    assert ask(monitor.status_port, "/healthz")[0] == 200


def test_the_process_ends_with_the_front_however_that_ends() -> None:
    front = (
        "import sys, time\n"
        "from gadgets.monitor.monitor import Monitor\n"
        "m = Monitor(0)\n"
        "m.start(trouble=str, unready=str, metrics=bytes, queued=lambda: 0.0)\n"
        "print(m.port, flush=True)\n"
        "time.sleep(600)\n"
    )
    started = subprocess.Popen([sys.executable, "-c", front], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    port = int(started.stdout.readline())
    stream = Stream(port)
    started.kill()
    started.wait()
    while stream.response.readline():
        pass  # it ends when the process closes the connection
    with pytest.raises(ConnectionError):
        for _ in range(600):
            ask(port, "/healthz")
    stream.close()
    started.stdout.close()


def test_a_port_that_is_taken_is_an_error_that_leaves_nothing_bound() -> None:
    first = Monitor(0)
    with pytest.raises(OSError, match="in use"):
        Monitor(0, first.port)
    first.close()


def test_without_the_extra_the_command_says_which_one_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "NEEDS", ("starlette", "no_such_package"))
    arguments = ["--port", "0", "--mask-endpoint", "tcp://127.0.0.1:*", "--monitor-port", "0"]
    assert main(["serve", *arguments]) == 1
    said = capsys.readouterr().err
    assert "--monitor-port needs no_such_package" in said
    assert "pip install 'mnet-gadgets[monitor]'" in said


def test_a_host_without_the_port_imports_nothing_of_it() -> None:
    program = (
        "import sys\n"
        "from gadgets.cli import _parser\nfrom gadgets.commands import serve\n"
        "import gadgets.host.serve, gadgets.host.session, gadgets.doctor.checks\n"
        "assert serve._monitor(_parser().parse_args(['serve', '--status-port', '0'])) is None\n"
        "theirs = ('gadgets.monitor', 'starlette', 'uvicorn')\n"
        "print([name for name in sys.modules if name.startswith(theirs)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[]"
