"""How fast lines of 15 coils x 640 samples become frames, over loopback, host and scanner apart.

The peer is a node of PyPI `gadgetron` that sends back what it gets. Ours is the running host with a
pipeline that ends in frames: every line is checked, counted, transformed along the readout, cropped
and placed. The scanner sends slices that lie ready in memory, so that it costs little beside them.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from gadgets.files.mrd_hdf5 import write_mrd
from gadgets.files.source import open_source
from gadgets.mrd.items import Acquisition
from gadgets.mrd.messages import Close, ConfigScript, Header, Text, read_message
from gadgets.mrd.sockets import SocketReader
from tests.benchmarks.bench import Check, Figure, by_turns
from tests.benchmarks.hosts import (
    LINE,
    N_KY,
    Running,
    connect,
    cpu_seconds,
    header,
    ours,
    pass_through,
    say,
    send_slices,
    slice_of_lines,
)

REPEATS, N_SLICES, N_PEER_SLICES = 5, 12, 4
FRAMES = """<configuration><version>2</version>
<readers><reader><dll>gadgetron_core_readers</dll><classname>AcquisitionReader</classname></reader>
</readers><writers/><stream><external>
<execute name="gadgets.external" target="pipeline" type="python"/><configuration>
<gadget class="RemoveReadoutOversampling"/><gadget class="AccumulateFrame"/>
</configuration></external></stream></configuration>"""


def into_frames(host: Running, lines: np.ndarray, n_slices: int) -> float:
    """Return lines per second from the first one sent to the host's CLOSE."""
    with connect(host.port) as sock:
        say(sock, ConfigScript(FRAMES.encode()), Header(header(n_slices)))
        read = SocketReader(sock)
        began = time.perf_counter()
        send_slices(sock, lines, n_slices)
        say(sock, Close())
        while not isinstance(message := read_message(read), Close):
            raise RuntimeError(message.text if isinstance(message, Text) else str(message))
        return n_slices * N_KY / (time.perf_counter() - began)


def there_and_back(lines: np.ndarray, n_slices: int) -> float:
    """Return lines per second through the peer, from the first one sent to the last one back."""
    with pass_through() as host, connect(host.port) as sock:
        say(sock, ConfigScript(b"<configuration/>"), Header(header(n_slices)))
        n_bytes = n_slices * N_KY * LINE.itemsize
        back = threading.Thread(target=_swallow, args=(sock, n_bytes))
        back.start()
        began = time.perf_counter()
        send_slices(sock, lines, n_slices)
        back.join()
        seconds = time.perf_counter() - began
        say(sock, Close())
        return n_slices * N_KY / seconds


def _swallow(sock: socket.socket, n_bytes: int) -> None:
    space = bytearray(1 << 20)
    while n_bytes > 0:
        n_bytes -= sock.recv_into(space)


def measure() -> Iterator[Figure]:
    lines = slice_of_lines()
    yield from start()
    yield from streamed(lines)
    yield recorded(lines)
    yield bulk_reading(lines)


def start() -> Iterator[Figure]:
    """Time from the start of a host to its first accepted connection, and to readiness."""
    began = time.perf_counter()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gadgets.cli", "serve", "--port", str(port), "--quiet"]
    command += ["--mask-endpoint", "tcp://127.0.0.1:*", "--device", "cpu", "--announce"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        connect(port).close()
        listening = time.perf_counter() - began
        if process.stdout is None or not process.stdout.readline():
            raise RuntimeError(f"the host ended with status {process.wait()}")
        ready = time.perf_counter() - began
    finally:
        process.terminate()
        process.communicate()
    yield Figure(figure="start to listening", ours=listening, unit="s", at_most=0.5)
    yield Figure(
        figure="start to the first mask possible",
        ours=ready,
        unit="s",
        note="models loaded, worker up, both ends rehearsed",
    )


def streamed(lines: np.ndarray) -> Iterator[Figure]:
    """Rates by turns with the peer, what a line costs, and what the host holds meanwhile."""
    n = N_SLICES * N_KY
    with ours() as host:
        into_frames(host, lines, 2)
        before = host.counted("mnet_acquisitions_total"), cpu_seconds(host.pid), host.memory()
        rates, ratios = [], []
        for _ in range(REPEATS):
            rates.append(into_frames(host, lines, N_SLICES))
            ratios.append(rates[-1] / there_and_back(lines, N_PEER_SLICES))
        counted = host.counted("mnet_acquisitions_total") - before[0]
        microseconds = 1e6 * (cpu_seconds(host.pid) - before[1]) / (REPEATS * n)
        grown = host.memory() - before[2]
    rate = median(rates)
    yield Figure(
        figure="lines of 15 x 640 into frames, nothing recorded",
        ours=rate,
        peer=rate / median(ratios),
        peer_name="PyPI gadgetron 1.4.1, pass-through node",
        unit="1/s",
        more_is_better=True,
        min_ratio=5,
        at_least=20000,
        check=Check(what="lines not counted", value=abs(REPEATS * n - counted), at_most=0),
        note=f"{microseconds:.0f} us of processor time a line in the host",
    )
    yield Figure(
        figure=f"memory that {N_SLICES} slices add to the host",
        ours=grown / 1e6,
        unit="MB",
        at_most=200,
        note=f"the slices have {n * LINE.itemsize / 1e6:.0f} MB on the wire",
    )


def recorded(lines: np.ndarray) -> Figure:
    """Rate with every message on record."""
    with tempfile.TemporaryDirectory() as folder, ours("--records", folder) as host:
        into_frames(host, lines, 1)
        rates = [into_frames(host, lines, 4) for _ in range(3)]
        sizes = [path.stat().st_size for path in Path(folder).glob("*/messages.log")]
    missing = max(sizes) - 4 * N_KY * LINE.itemsize < 0
    return Figure(
        figure="lines of 15 x 640 into frames, recorded",
        ours=median(rates),
        unit="1/s",
        at_least=2000,
        check=Check(what="records shorter than their lines", value=missing, at_most=0),
        note=f"records in {os.path.dirname(folder)}",
    )


def bulk_reading(lines: np.ndarray) -> Figure:
    """Rate of reading an MRD file into memory, beside `ismrmrd`, line by line as it offers it."""
    import ismrmrd

    items = [Acquisition(header=line["head"], data=line["data"].copy()) for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slice.h5"
        write_mrd(path, header(1), items)
        found: dict[str, list[np.ndarray]] = {}

        def we() -> None:
            found["ours"] = [line.data for line in open_source(path).acquisitions]

        def peer() -> None:
            with ismrmrd.Dataset(str(path), create_if_needed=False) as dataset:
                n = dataset.number_of_acquisitions()
                found["peer"] = [dataset.read_acquisition(i).data for i in range(n)]

        seconds = by_turns({"ours": we, "peer": peer}, repeats=3)
    pairs = zip(found["ours"], found["peer"], strict=True)
    return Figure(
        figure="lines of 15 x 640 read from an MRD file",
        ours=N_KY / median(seconds["ours"]),
        peer=N_KY / median(seconds["peer"]),
        peer_name="ismrmrd 1.15, line by line",
        unit="1/s",
        more_is_better=True,
        check=Check(
            what="largest difference",
            value=max(float(np.abs(a - b).max()) for a, b in pairs),
            at_most=0,
        ),
    )
