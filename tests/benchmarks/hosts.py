"""Hosts in processes of their own for the benchmarks, and a scanner that costs next to nothing."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from gadgets.files.source import Source
from gadgets.mrd.header_layouts import ACQUISITION_HEADER
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.messages import Message, write_message
from gadgets.scanner.client import MrdClient
from tests.gadgets.helpers.processes import children, serving, started

N_COILS, N_SAMPLES, N_KY = 15, 640, 368
LINE = np.dtype(
    [("id", "<u2"), ("head", ACQUISITION_HEADER), ("data", "<c8", (N_COILS, N_SAMPLES))]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A host that is ready."""

    pid: int
    port: int
    mask_endpoint: str = ""
    status_port: int | None = None
    monitor_port: int | None = None

    def counted(self, name: str) -> float:
        """Read one figure of /metrics, 0 where it is not there yet."""
        text = urlopen(f"http://127.0.0.1:{self.status_port}/metrics").read().decode()
        values = [line.split()[1] for line in text.splitlines() if line.startswith(name + " ")]
        return float(values[0]) if values else 0.0

    def memory(self) -> int:
        """Return the most memory it has held so far, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@contextmanager
def ours(*options: str) -> Iterator[Running]:
    """Run `mnet serve` on free ports."""
    options = ("--status-port", "0", "--allow-inline-config", "--quiet", *options)
    with serving(*options) as (process, announced):
        announced.pop("external_port")
        yield Running(pid=process.pid, **announced)


def timed_scan(host: Running, source: Source, config: str) -> tuple[float, int]:
    """Return how long a scan takes, from its first line to its last image, and its images."""
    began = time.perf_counter()
    with MrdClient("127.0.0.1", host.port) as client:
        client.start(config, source.header)
        client.send_all(source.acquisitions)
        images = client.finish()
    return time.perf_counter() - began, len(images)


PASS_THROUGH = """
import sys
from gadgetron.external import listen
def hop(connection):
    for item in connection:
        connection.send(item)
listen(int(sys.argv[1]), hop)
"""


@contextmanager
def pass_through() -> Iterator[Running]:
    """Run PyPI `gadgetron` as a node that sends back what comes, for one connection."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started([sys.executable, "-c", PASS_THROUGH, str(port)]) as process:
        yield Running(pid=process.pid, port=port)
        process.terminate()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def worker_seconds(pid: int) -> float:
    """Return the processor time of a host's worker: it is the host's only child."""
    return sum(map(cpu_seconds, children(pid)))


def connect(port: int, patience_s: float = 60.0) -> socket.socket:
    """Connect as soon as somebody listens."""
    ends = time.monotonic() + patience_s
    while True:
        with suppress(ConnectionRefusedError):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        if time.monotonic() > ends:
            raise TimeoutError(f"nobody listens on port {port}")
        time.sleep(0.02)


def header(n_slices: int) -> bytes:
    """Return the MRD header of a 320 x 368 scan with two-fold readout oversampling."""
    return header_xml(
        encoded=(N_SAMPLES, N_KY, 1),
        encoded_fov=(640, 368, 5),
        recon=(320, 368, 1),
        recon_fov=(320, 368, 5),
        n_coils=N_COILS,
        n_slices=n_slices,
    )


def slice_of_lines() -> np.ndarray:
    """Return a slice as it lies on the wire, line after line."""
    lines = np.zeros(N_KY, LINE)
    rng = np.random.default_rng(0)
    lines["id"] = 1008
    header = lines["head"]
    header["version"], header["active_channels"], header["available_channels"] = 1, N_COILS, N_COILS
    header["number_of_samples"], header["center_sample"] = N_SAMPLES, N_SAMPLES // 2
    header["kspace_encode_step_1"] = np.arange(N_KY)
    noise = rng.normal(size=(2, N_KY, N_COILS, N_SAMPLES))
    lines["data"] = noise[0] + 1j * noise[1]
    return lines


def send_slices(sock: socket.socket, lines: np.ndarray, n_slices: int) -> None:
    """Send the same lines as slices 0, 1, ..., as fast as they are taken."""
    for number in range(n_slices):
        lines["head"]["slice"] = number
        sock.sendall(lines.view(np.uint8).data)


def say(sock: socket.socket, *messages: Message) -> None:
    """Send a few small messages."""
    sock.sendall(b"".join(map(write_message, messages)))
