"""A stand-in for the C++ Gadgetron: the parent of one external Python node, byte by byte.

Layouts are written out here from the specification, so that the node's own codec is not its judge.
"""

import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from gadgets.mrd.items import Acquisition, Image
from gadgets.pipeline.build import parse
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from tests.gadgets.helpers.synthetic import Array, Scanned, acquisition, crop, fft, ifft

CONFIG, HEADER, CLOSE, ERROR, ACQUISITION, IMAGE = 2, 3, 4, 8, 1008, 1022
PIXELS = {1: "<u2", 3: "<u4", 5: "<f4", 6: "<f8", 7: "<c8", 8: "<c16"}  # what C++ takes: no i2
PATIENCE = 120.0  # seconds until a test gives up; none waits that long when all is well
QUICK = """
<configuration><version>2</version><stream><external>
  <execute name="gadgets.external" target="pipeline" type="python"/>
  <configuration device="cpu">
    <gadget class="AccumulateFrame"/>
    <gadget class="CoilMaps"/>
    <gadget class="Reconstruct"><property name="method" value="zero_filled"/></gadget>
    <gadget class="ImageFinish"/>
  </configuration>
</external></stream></configuration>
"""
CAPTURES = Path(os.environ.get("MNET_SHARED") or Path(__file__).resolve().parents[4] / "shared")
CAPTURES /= "captures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A message of the node: its id, and what it holds."""

    id: int
    text: str = ""  # of an error, or the meta of an image
    header: bytes = b""
    pixels: NDArray[np.generic] | None = None  # (channels, z, y, x)

    @property
    def series(self) -> int:
        return int(struct.unpack_from("<H", self.header, 128)[0])

    @property
    def slice(self) -> int:
        return int(struct.unpack_from("<H", self.header, 98)[0])


class Link:
    """The parent's end of the connection to a node that is already there."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received: queue.Queue[Received | None] = queue.Queue()  # None: there is no more
        self.broken = ""  # why reading ended, where not with CLOSE
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, configuration: bytes, header: bytes) -> None:
        for id_, text in ((CONFIG, configuration), (HEADER, header)):
            self.sock.sendall(struct.pack("<HI", id_, len(text)) + text)

    def send_all(self, lines: Iterable[Acquisition]) -> None:
        for line in lines:
            self.sock.sendall(acquisition_bytes(line))

    def close(self) -> None:
        """Say that the input is over."""
        self.sock.sendall(struct.pack("<H", CLOSE))

    def next(self) -> Received:
        """Wait for the next message; EOFError where the node has said its last."""
        message = self._received.get(timeout=PATIENCE)
        if message is None:
            self._received.put(None)
            raise EOFError(f"no further message of the node: {self.broken or 'it said CLOSE'}")
        return message

    def rest(self) -> list[Received]:
        """Wait for the node's CLOSE or its end; give all messages that were not taken yet."""
        messages = []
        while True:
            try:
                messages.append(self.next())
            except EOFError:
                return messages

    def _read(self) -> None:
        try:
            while (message := read_message(self._exactly)).id != CLOSE:
                self._received.put(message)
            self._received.put(message)
        except (EOFError, OSError) as error:
            self.broken = str(error) or type(error).__name__
        finally:
            self._received.put(None)

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                raise EOFError(f"{n - len(data)} bytes missing")
            data += part
        return data


class Parent(Link):
    """A parent that starts its node as Gadgetron does; a context manager that leaves none behind.

    `folders` go before everything else that the node can import.
    """

    def __init__(self, log: Path, folders: Sequence[Path] = (), target: str = "pipeline") -> None:
        self._log = log
        with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
            listener.settimeout(0.2)
            paths = [str(f) for f in folders] + os.environ.get("PYTHONPATH", "").split(os.pathsep)
            port = str(listener.getsockname()[1])
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gadgetron", port, "gadgets.external", target],
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                cwd=log.parent,
            )
            super().__init__(self._accept(listener))

    def __enter__(self) -> "Parent":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def status(self) -> int:
        """Wait for the process, as the C++ parent does with the connection still open."""
        return self.process.wait(PATIENCE)

    def _accept(self, listener: socket.socket) -> socket.socket:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            sock.settimeout(PATIENCE)
            return sock
        raise RuntimeError(f"the node did not connect: {self.log}")


def read_message(exactly: Callable[[int], bytes]) -> Received:
    """Read what a node may send; OSError as C++ complains of anything else."""
    (id_,) = struct.unpack("<H", exactly(2))
    if id_ == CLOSE:
        return Received(id=id_)
    if id_ == ERROR:
        (n,) = struct.unpack("<Q", exactly(8))
        return Received(id=id_, text=exactly(n).decode())
    if id_ != IMAGE:
        raise OSError(f"Received illegal message id from external peer: {id_}")
    header = exactly(198)
    (type_,) = struct.unpack_from("<H", header, 2)
    x, y, z = struct.unpack_from("<3H", header, 16)
    (channels,) = struct.unpack_from("<H", header, 34)
    (n,) = struct.unpack("<Q", exactly(8))
    if n != struct.unpack_from("<I", header, 194)[0]:
        raise OSError("the two lengths of the meta differ")
    meta = exactly(n).decode()
    dtype = np.dtype(PIXELS[type_])
    data = exactly(channels * z * y * x * dtype.itemsize)
    pixels = np.frombuffer(data, dtype).reshape(channels, z, y, x)
    return Received(id=id_, text=meta, header=header, pixels=pixels)


def acquisition_bytes(line: Acquisition) -> bytes:
    header, data = line.header.tobytes(), np.ascontiguousarray(line.data, "<c8")
    if (len(header), struct.unpack_from("<H", header, 34)[0]) != (340, data.shape[1]):
        raise ValueError("the line's header does not fit its data")
    return struct.pack("<H", ACQUISITION) + header + data.tobytes()


def cropped(line: Acquisition) -> Acquisition:
    """Halve the readout in image space and give k-space, as RemoveROOversampling in front does."""
    n = line.data.shape[1] // 2
    data: Array = fft(crop(ifft(line.data, 1), n, 1), 1)
    fields = {name: line.header[name] for name in line.header.dtype.names or ()}
    sizes = {"number_of_samples": n, "center_sample": int(line.header["center_sample"]) // 2}
    return acquisition(data, **(fields | sizes | {"active_channels": data.shape[0]}))


def upstream(scan: Scanned, slice_: int = 0, **fields: object) -> list[Acquisition]:
    """Return the lines of a slice as they leave Gadgetron's nodes."""
    return [cropped(line) for line in scan.lines(slice_, **fields)]


def node_document(pipeline: str, attributes: Mapping[str, str] = {}) -> bytes:
    """Return the `<configuration>` of a pipeline's external node as C++ hands it over."""
    configuration = ElementTree.fromstring(pipeline).find("stream/external/configuration")
    if configuration is None:
        raise ValueError("the pipeline has no external node with a configuration")
    configuration.attrib |= dict(attributes)
    configuration.tail = "\n"
    return b'<?xml version="1.0"?>\n' + ElementTree.tostring(configuration)


def failed(messages: list[Received]) -> str:
    """Check that a node told its failure once and last, and give the text."""
    if [m.id for m in messages[-2:]] != [ERROR, CLOSE] or {m.id for m in messages[:-2]} - {IMAGE}:
        raise AssertionError(f"no failure: {messages}")
    text = messages[-2].text
    if not text.startswith("Traceback (most recent call last)"):
        raise AssertionError(f"no traceback: {text}")
    return text


def plain_loop(scan: Scanned, pipeline: str, lines: Iterable[Acquisition]) -> list[Image]:
    """Return the images of a pipeline without any connection."""
    items = run(parse(pipeline), Scan(geometry=scan.geometry), lines)
    return [item for item in items if isinstance(item, Image)]
