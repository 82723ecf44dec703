"""The front's side of the monitor: starts its process, feeds it, and answers what it asks.

The page is served by a process of its own, of low priority, so that no browser's request and no
picture is dealt with where a mask is due.
"""

import importlib.util
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

from ..errors import ConfigError
from .feed import Feed
from .session_events import SessionEvents

log = logging.getLogger(__name__)
NEEDS = ("starlette", "uvicorn")
AGAIN_S = 1.0  # until a process that ended is started again
Answers = Mapping[str, Callable[[], bytes]]


class Monitor:
    """Binds its ports, on loopback; shows something once it is started.

    `status_port` is a second port for probes, where it is another one. Raises ConfigError without
    the packages of the extra `monitor`, and OSError where a port is taken.
    """

    def __init__(self, port: int, status_port: int | None = None) -> None:
        require_extra()
        self.feed = Feed()
        with ExitStack() as bound:
            ports = [port] if status_port in (None, port) else [port, status_port]
            self._listeners = [
                bound.enter_context(socket.create_server(("127.0.0.1", one), backlog=16))
                for one in ports
            ]
            bound.pop_all()
        self.port: int = self._listeners[0].getsockname()[1]
        self.status_port: int | None = (
            None if status_port is None else self._listeners[-1].getsockname()[1]
        )
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The process id, for logs and tests; None before it is started."""
        return None if self._process is None else self._process.pid

    def watch(self, session: str) -> SessionEvents:
        """Return who is told of a session, known by its random id."""
        return SessionEvents(self.feed, session)

    def start(
        self,
        *,
        trouble: Callable[[], str],
        unready: Callable[[], str],
        metrics: Callable[[], bytes],
        queued: Callable[[], float],
    ) -> None:
        """Show the page, and answer probes as `gadgets.host.health_server.StatusServer` does."""

        def state() -> bytes:
            words = {"trouble": trouble(), "unready": unready()}
            numbers = {"queued": int(queued()), "dropped": self.feed.dropped}
            return json.dumps(words | numbers).encode()

        answers: Answers = {
            "healthz": lambda: trouble().encode(),
            "readyz": lambda: unready().encode(),
            "metrics": metrics,
            "state": state,
        }
        questions = self._begin()
        self._thread = threading.Thread(
            target=self._run, args=(questions, answers), name="monitor", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the process and free the ports."""
        self._stop.set()
        self.feed.connect(None)  # with which the process ends
        if self._thread is not None:
            self._thread.join(10)
        for listener in self._listeners:
            listener.close()

    def _begin(self) -> socket.socket:
        """Start the process; returns the socket on which it asks."""
        events, their_events = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        questions, their_questions = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with their_events, their_questions:
            theirs = [s.fileno() for s in (their_events, their_questions, *self._listeners)]
            command = [sys.executable, "-m", "gadgets.monitor.process", *map(str, theirs)]
            # in a session of its own, where Ctrl-C does not reach: it ends with the front
            self._process = subprocess.Popen(command, pass_fds=theirs, start_new_session=True)
        self.feed.connect(events)
        return questions

    def _run(self, questions: socket.socket, answers: Answers) -> None:
        """Answer until the process ends, and start another one: probes come to it, too."""
        while True:
            with questions:
                answer_all(questions, answers)
            process = self._process
            if process is not None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                process.kill()
                process.wait()
            if self._stop.wait(AGAIN_S):
                return
            log.error("the monitor's process ended; starting another")
            questions = self._begin()


def answer_all(questions: socket.socket, answers: Answers) -> None:
    """Answer `NUMBER WHAT` with `NUMBER ANSWER`, each a datagram, until the other end closes."""
    while True:
        try:
            number, _, what = questions.recv(256).decode().partition(" ")
            if not number:
                return
            questions.send(number.encode() + b" " + answers[what]())
        except OSError:
            return


def require_extra() -> None:
    """Raise ConfigError where what serves the page is not installed."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--monitor-port needs {' and '.join(missing)}, which the extra `monitor` brings: "
            "pip install 'mnet-gadgets[monitor]'"
        )
