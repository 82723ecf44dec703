"""A copy of the checkout in which the commands of a fence are tried, one after the other."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gadgets.files.mrd_hdf5 import write_mrd
from tests.documents.commands import ROOT, Command
from tests.gadgets.helpers import closed_loop

FOLDERS = ("docs", "gadgets", "mnet", "scripts", "tests", "training", "vendor", "xml_configs")
FILES = ("README.md", "pyproject.toml", "constraints.txt")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "open")  # what a study has made
SCANS = ("DATA.h5", "scan.h5", "FILES", "SOURCE")  # the pages' names of a scan of the reader's
PATIENCE_S = 300.0
BUILD = "gcc -O2 -std=c11 -o sequence_client vendor/sequence_client.c -lzmq -lm"
CLIENT = r"\./sequence_client|python vendor/sequence_client\.py"
# What serves until it is stopped, and what it says once it does.
SERVERS = {r"mnet serve\b": "ready on ", r"mnet maskd\b": "mask channel adaptive-mask/1 at "}
# What waits for one client and ends after it.
LISTENER, LISTENS = r"mnet conformance --listen", "start the sequence"
# Options that a command gets where the page leaves it to the default: free ports.
DEFAULTS = {
    r"mnet (serve|maskd)\b": {"--mask-endpoint": "tcp://127.0.0.1:9004"},
    r"mnet serve\b": {"--port": "9002"},
    r"mnet doctor\b": {"--port": "0", "--mask-endpoint": "tcp://127.0.0.1:*"},
    CLIENT: {"--mask": "tcp://127.0.0.1:9004", "--mrd": "127.0.0.1:9002"},
}


class MissingToolError(Exception):
    """A compiler or a library that the project does not bring along is not here."""


@dataclass(slots=True)
class Running:
    """A command that runs beside those after it."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, word: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while word not in self.said:
            assert self.process.poll() is None, f"it ended: {self.said}"
            assert time.monotonic() < until, f"it never said {word!r}: {self.said}"
            time.sleep(0.05)

    def end(self) -> None:
        """Wait for its end by itself, which must be a good one."""
        assert self.process.wait(PATIENCE_S) == 0, self.said

    def stop(self) -> None:
        """Stop it as a service is stopped, which must be a good end too."""
        self.process.terminate()
        self.end()


@dataclass(slots=True)
class Checkout:
    """The copy; made by `checkout`."""

    folder: Path
    ports: dict[str, int]
    listener: Command | None = None
    servers: list[Running] = field(default_factory=list)

    def try_all(self, commands: Sequence[Command]) -> None:
        """Run commands in order; AssertionError with what was said where one fails."""
        for command in commands:
            if re.match(LISTENER, command.text):
                self.listener = command
            elif ready := self._ready(command):
                self.servers.append(self._start(command))
                self.servers[-1].wait_for(ready)
            elif self.listener is not None and re.match(CLIENT, command.text):
                bench = self._start(self.listener)
                bench.wait_for(LISTENS)
                self._run(command)
                bench.end()
            else:
                self._run(command)
        for server in self.servers:
            server.stop()

    def shell(self, text: str) -> str:
        """Return a command with this copy's ports, folders and host for those of the page."""
        for pattern, options in DEFAULTS.items():
            if re.match(pattern, text):
                given = (f" {name} '{value}'" for name, value in options.items())
                text += "".join(one for one in given if one.split()[0] not in text.split())
        text = text.replace("HOST:", "127.0.0.1:")
        for place in ("/var/lib/mnet", "/etc/mnet"):
            text = text.replace(place, str(self.folder / place[1:]))
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(free), text)
        return text

    def _ready(self, command: Command) -> str:
        return next((word for p, word in SERVERS.items() if re.match(p, command.text)), "")

    def _start(self, command: Command) -> Running:
        output = self.folder / f"output-{time.monotonic_ns()}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self.shell(command.text)}"],
                cwd=self.folder,
                env=self._environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return Running(process, output)

    def _run(self, command: Command) -> None:
        if command.text.startswith(("gcc ", "./sequence_client")):
            self._build_client()
        done = self._done(self.shell(command.text))
        assert done.returncode == 0, f"{command.place}: {command.text}\n{done.stdout}"

    def _build_client(self) -> None:
        """Build what another fence of the page has built."""
        probe = "gcc -E -include zmq.h -x c /dev/null -o /dev/null"
        if self._done(probe).returncode:
            raise MissingToolError("gcc or zmq.h is not here (Debian: gcc, libzmq3-dev)")
        assert self._done(BUILD).returncode == 0

    def _done(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        home = {"HOME": str(self.folder / "home"), "PYTHONPATH": str(self.folder)}
        return os.environ | home | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}


@contextmanager
def checkout(folder: Path) -> Iterator[Checkout]:
    """Copy the project into a folder; nothing that was started there outlives it."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    subprocess.run(["chmod", "-R", "go-w", str(folder)], check=True)  # whatever the umask was
    for name in ("bin", "home", "var/lib/mnet/records", "etc/mnet"):
        (folder / name).mkdir(parents=True)
    for name, command in {"mnet": "-m gadgets.cli", "python": ""}.items():
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        program.chmod(0o755)
    scan = closed_loop.source(2)
    for name in SCANS:
        write_mrd(folder / name, scan.header, scan.acquisitions)
    copy = Checkout(folder, _free_ports("9002", "9004", "9008"))
    try:
        yield copy
    finally:
        for server in copy.servers:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()


def _free_ports(*names: str) -> dict[str, int]:
    """Return a free port for each; all are taken at once, so that they differ."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: one.getsockname()[1] for name, one in zip(names, listeners, strict=True)}
    for one in listeners:
        one.close()
    return ports
