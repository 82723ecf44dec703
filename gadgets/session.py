"""One client connection: configuration, header, stream, images, end.

The front end of the pipeline runs on the connection's thread, the heavy end in the worker; images
go out as the worker hands them over. Whatever fails, the input is read to its end and recorded,
the client gets one ERROR text and no further image, and other connections go on.
"""

import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import ConfigError, GadgetsError, ProtocolError
from .front import WorkerScan
from .gadget import Models, Scan, chain, intake
from .geometry import Geometry
from .items import Acquisition, Frame, Image, Item, Mask, Waveform, is_imaging
from .mask_peer import ReconPort
from .message import (
    Close,
    ConfigFile,
    ConfigScript,
    Header,
    Message,
    Query,
    Response,
    Text,
    message_buffers,
    read_message,
    socket_reader,
)
from .pipeline import Pipeline, load, parse, split
from .record import Record

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What every session of a host shares."""

    models: Models
    masks: ReconPort
    open_worker: Callable[[str, str, Callable[[Image], None]], WorkerScan]
    new_record: Callable[[], Record | None]
    answer: Callable[[str], str]  # an info query
    wait_warm: Callable[[], None]
    allow_inline: bool = False


@dataclass(slots=True)
class _Ledger:
    """What a scan's record sums up."""

    received: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    masks: list[Mask] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)  # without their arrays
    recon_ms: dict[tuple[int, int], float] = field(default_factory=dict)
    n_images: int = 0


class Session:
    """Serve one connection, start to end."""

    def __init__(self, sock: socket.socket, services: Services) -> None:
        self._sock = sock
        self._services = services
        self._read = socket_reader(sock)
        self._write_lock = threading.Lock()
        self._failed = False  # no image leaves after an error
        self._gone = False  # the client takes nothing more
        self._ended = False  # CLOSE or end of the connection was read
        self._record: Record | None = None
        self._ledger = _Ledger()

    def serve(self) -> None:
        """Run the session; never raises for anything a client can do."""
        try:
            self._run()
        except EOFError as error:
            self._ended = self._gone = True
            log.warning("the client vanished: %s", error)
        except OSError as error:
            self._gone = True
            log.warning("the connection broke: %s", error)
        except GadgetsError as error:
            self._fail(f"{type(error).__name__}: {error}")
        except Exception as error:  # the connection boundary: told to the client, logged in full
            log.exception("the session failed")
            self._fail("".join(traceback.format_exception_only(error)).strip())
        finally:
            self._end()

    def _run(self) -> None:
        xml = self._configuration()
        if xml is None:
            return
        pipeline = parse(xml)
        message = self._next()
        while isinstance(message, Text):  # FIRE sends parameters between header and configuration
            message = self._next()
        if isinstance(message, Close):
            return
        if not isinstance(message, Header):
            raise ProtocolError(f"{type(message).__name__} before the header")
        geometry = Geometry.parse(message.xml)
        self._record = self._services.new_record()
        self._log(message)
        self._services.wait_warm()
        self._scan(xml, pipeline, message, geometry)

    def _configuration(self) -> str | None:
        """Return the pipeline's XML, or None where the session ends without one."""
        message = self._next()
        if isinstance(message, ConfigFile):
            return None if message.name == "isalive.xml" else load(message.name)
        if isinstance(message, ConfigScript):
            text = message.xml.decode(errors="replace")
            if "NoiseSummaryGadget" in text or "DependencyQuery" in text:
                return None  # the stock client asks for stored noise; we have none
            if not self._services.allow_inline:
                raise ConfigError(
                    "pipelines sent by a client are refused: name one of the host's own, or start "
                    "the host with --allow-inline-config"
                )
            return text
        if isinstance(message, Close):
            return None
        raise ProtocolError(f"{type(message).__name__} before the configuration")

    def _scan(self, xml: str, pipeline: Pipeline, header: Header, geometry: Geometry) -> None:
        record, ledger = self._record, self._ledger
        link = self._services.masks.open(
            geometry.scan_token, None if record is None else _observer(record)
        )
        text = header.xml.decode(errors="replace")
        worker = None
        scan = Scan(geometry=geometry, models=self._services.models, masks=link, record=record)
        started = time.time()
        error = ""
        try:
            worker = self._services.open_worker(xml, text, self._send_image)
            front = split(pipeline)[0]
            for gadget in front:
                gadget.warm(scan)
            link.warmed()
            for item in chain(front, scan, intake(scan, self._items())):
                if isinstance(item, Waveform | Acquisition):
                    continue  # nothing behind the front knows them
                self._note(item)
                worker.put(item)
            worker.finish()
        except BaseException as failure:
            error = f"{type(failure).__name__}: {failure}"
            if worker is not None:
                worker.abandon()
            if isinstance(failure, GadgetsError):
                self._failed = True
                self._drain()
            raise
        finally:
            link.close()
            if record is not None:
                counts = dict(scan.counts) | ({} if worker is None else worker.counts)
                summary = _summary(scan, ledger, counts, started, error)
                record.finish(summary | {"pipeline": xml})

    def _items(self) -> Iterator[Item]:
        """Read the stream up to CLOSE; a client that vanishes ends it too, and is noted."""
        while not self._ended:
            try:
                message = self._next()
            except EOFError as error:
                self._ended = self._gone = True
                log.warning("the client vanished: %s", error)
                return
            if isinstance(message, Acquisition):
                head = message.head
                if is_imaging(int(head["flags"])):
                    scope = int(head["slice"]), int(head["repetition"])
                    counter = int(head["kspace_encode_step_1"])
                    self._ledger.received.setdefault(scope, set()).add(counter)
                yield message
            elif isinstance(message, Waveform | Image):
                if isinstance(message, Image):
                    raise ProtocolError("image-to-image sessions are not supported")
                yield message
            elif isinstance(message, Close):
                return
            elif not isinstance(message, Text):
                raise ProtocolError(f"{type(message).__name__} in the stream")

    def _next(self) -> Message:
        """Read the next message that is not a query, and log it."""
        while True:
            message = read_message(self._read)
            self._log(message)
            if isinstance(message, Close):
                self._ended = True
            if not isinstance(message, Query):
                return message
            answer = self._services.answer(message.key)
            self._send(Response(message.correlation, answer))

    def _log(self, message: Message) -> None:
        if self._record is not None:
            self._record.message(message_buffers(message))

    def _note(self, item: Item) -> None:
        if isinstance(item, Mask):
            self._ledger.masks.append(item)
        elif isinstance(item, Frame):
            empty = np.zeros((0, 0, 0), np.complex64)
            self._ledger.frames.append(
                Frame(
                    key=item.key,
                    head=item.head,
                    kspace=empty,
                    mask=item.mask,
                    calibration=item.calibration,
                    meta=item.meta,
                )
            )

    def _send_image(self, image: Image) -> None:
        ms = image.meta.get("mnet_recon_ms")
        if ms is not None:
            scope = int(image.head["slice"]), int(image.head["repetition"])
            self._ledger.recon_ms[scope] = float(ms)
        if not self._failed:
            self._ledger.n_images += 1
            self._send(image)

    def _send(self, message: Message) -> None:
        if self._gone:
            return
        try:
            with self._write_lock:
                for part in message_buffers(message):
                    self._sock.sendall(part)
        except OSError as error:
            self._gone = True
            log.warning("the client takes nothing more: %s", error)

    def _drain(self) -> None:
        """Read and record the input to its end, so that no acquired data is lost."""
        try:
            while not self._ended:
                self._next()
        except (EOFError, OSError, ProtocolError):
            self._ended = True

    def _fail(self, text: str) -> None:
        self._failed = True
        log.error("%s", text)
        self._drain()
        self._send(Text(f"ERROR: {text}\n"))

    def _end(self) -> None:
        self._send(Close())
        if self._record is not None:
            self._record.close()
        with suppress(OSError):  # the client closed first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def _observer(record: Record) -> Callable[[str, dict[str, Any]], None]:
    def observe(direction: str, header: dict[str, Any]) -> None:
        record.mask("sent" if direction == "sent" else "received", header)

    return observe


def _summary(
    scan: Scan, ledger: _Ledger, counts: dict[str, int], started: float, error: str
) -> dict[str, Any]:
    """Put together what was asked for, applied and received, slice by slice."""
    slices = []
    frames: dict[tuple[int, int], Frame] = {}  # of several contrasts, an incomplete one if any
    for one in ledger.frames:
        scope = one.key.slice, one.key.repetition
        if scope not in frames or "incomplete" in one.meta:
            frames[scope] = one
    masks = {(m.key.slice, m.key.repetition): m for m in ledger.masks}
    for scope in sorted(ledger.received):
        frame, mask = frames.get(scope), masks.get(scope)
        entry: dict[str, Any] = {
            "slice": scope[0],
            "repetition": scope[1],
            "received": sorted(ledger.received[scope]),
            "complete": frame is not None and "incomplete" not in frame.meta,
            "recon_ms": ledger.recon_ms.get(scope),
        }
        if mask is not None:
            entry |= {
                "asked": mask.counters.tolist(),
                "sent": mask.sent,
                "predicted_because": mask.reason,
                "mask_ms": 1e3 * mask.seconds,
                "model": mask.model,
            }
            if mask.fallback is not None:
                entry["fallback_mask"] = mask.fallback.tolist()
        if frame is not None:
            entry |= {k: frame.meta[k] for k in ("fallback", "reason") if k in frame.meta}
        slices.append(entry)
    return {
        "started": started,
        "seconds": time.time() - started,
        "measurement_id": scan.geometry.measurement_id,
        "scan_token": scan.geometry.scan_token,
        "error": error,
        "images": ledger.n_images,
        "counts": counts,
        "slices": slices,
    }
