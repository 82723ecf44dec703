"""One client connection: configuration, header, stream, images, end.

The front end of the pipeline runs on the connection's thread, the heavy end in the worker; images
go out as the worker hands them over. Whatever fails, the client gets one ERROR text and no further
image, the input is read to its end and recorded, and other connections go on. Only messages that
the pipeline lists a writer for are sent, besides texts, answers, CLOSE, and masks to a client that
asked for them in this stream.
"""

import logging
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, GadgetError, GadgetsError, ProtocolError
from ..files.noise_store import NoiseStore
from ..files.scan_record import Record
from ..mask.in_band import HELLO, in_band_link
from ..mask.recon_port import ReconLink, ReconPort
from ..mrd.geometry import Geometry
from ..mrd.item_bytes import decode
from ..mrd.items import Acquisition, Burst, Image, Item, Waveform
from ..mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Dependency,
    Header,
    Message,
    Text,
    describe,
)
from ..pipeline.build import Stream, load, parse_stream, split
from ..pipeline.catalogue import OURS, Catalogue
from ..pipeline.chain import chain
from ..pipeline.intake import intake
from ..pipeline.models import Models
from ..pipeline.scan import Scan
from . import fire_dialect, gadgetron_queries
from .connection import Connection
from .logs import new_scan
from .prometheus import Meter, Metrics
from .summary import Ledger, summary, tell
from .worker_handle import WorkerScan

log = logging.getLogger(__name__)
SEND_S = 10.0  # to take the last images, for a client that says nothing more


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
    load: Callable[[str], str] = load  # a pipeline's XML by its name
    catalogue: Callable[[], Catalogue] = lambda: OURS  # the gadgets that a pipeline may name
    metrics: Metrics = field(default_factory=Metrics)
    noise: NoiseStore | None = None


class Session(Connection):
    """Serve one connection, start to end."""

    def __init__(self, sock: socket.socket, services: Services) -> None:
        super().__init__(sock, services.answer)
        self._services = services
        self._module = ""  # name of the pipeline, where the client chose it by name
        self._settings = ""  # the client's text of parameters
        self._hello: str | None = None  # and what it says there of the masks it takes
        self._writes: frozenset[type] = frozenset()
        self._ledger = Ledger()
        self._meter = Meter(services.metrics)

    def serve(self) -> None:
        """Run the session; never raises for anything a client can do."""
        new_scan()
        self._meter.begin()
        try:
            self._run()
        except (EOFError, OSError) as error:
            self._ended = self._gone = True
            self._meter.failed(error)
            log.warning("the client vanished: %s", error)
        except GadgetsError as error:
            self._meter.failed(error)
            self._fail(f"{type(error).__name__}: {error}")
        except Exception as error:  # the connection boundary: told to the client, logged in full
            self._meter.failed(error)
            log.exception("the session failed")
            self._fail("".join(traceback.format_exception_only(error)).strip())
        finally:
            self._end()
            self._meter.end()

    def _run(self) -> None:
        xml = self._configuration()
        if xml is None:
            return
        stream = parse_stream(xml, self._services.catalogue())
        message = self._before_stream()
        if isinstance(message, Close):
            return
        if not isinstance(message, Header):
            raise ProtocolError(f"{describe(message)} before the MRD header")
        geometry = Geometry.parse(message.xml)
        self._record = self._services.new_record()
        self._log(message)
        self._services.wait_warm()
        self._writes = stream.writes
        self._scan(xml, stream, message, geometry)

    def _configuration(self) -> str | None:
        """Return the pipeline's XML, or None where the session ends without one."""
        message = self._next()
        if isinstance(message, Close):
            return None
        if isinstance(message, ConfigFile):
            return self._named(message.name)
        if not isinstance(message, ConfigScript):
            raise ProtocolError(f"{describe(message)} before the configuration")
        text = decode(message.xml).strip("\ufeff \t\r\n")
        if not text.startswith("<"):
            return self._named(text)  # some clients send a module's name as text
        query = gadgetron_queries.inline(message.xml, self._services.noise)
        if query is not None:
            self._answer_at_close(query)
            return None
        if not self._services.allow_inline:
            raise ConfigError(
                "pipelines sent by a client are refused: name one of the host's own, or start "
                "the host with --allow-inline-config"
            )
        return text

    def _named(self, name: str) -> str | None:
        query = gadgetron_queries.named(name)
        if query is not None or name == gadgetron_queries.IS_ALIVE:
            self._answer_at_close(query)
            return None
        if not name.endswith(fire_dialect.SUFFIX):
            return self._fire(name)
        self._module = name.removesuffix(fire_dialect.SUFFIX)
        return self._services.load(name)

    def _answer_at_close(self, answer: Dependency | None) -> None:
        """Read to the end of a session without data, and answer then."""
        while not self._ended:
            self._next()
        if answer is not None:
            self._send(answer)

    def _fire(self, name: str) -> str | None:
        """Read on to where a FIRE client's parameters may stand, and give the pipeline it means."""
        header = self._before_stream()
        following = header if isinstance(header, Close) else self._next()
        ahead = [header] if header is following else [header, following]
        text = following.text if isinstance(following, Text) else None
        request = fire_dialect.request(name, text)
        if request.module in (fire_dialect.DISCARD, fire_dialect.SAVE):
            self._store(ahead, must=request.module == fire_dialect.SAVE)
            return None
        if isinstance(following, Image):
            raise ProtocolError("image-to-image sessions are not supported: send raw data")
        self._module, self._settings, self._hello = request.module, text or "", request.hello
        xml = fire_dialect.configure(
            self._services.load(request.module + fire_dialect.SUFFIX),
            request.parameters,
            self._services.catalogue(),
        )
        self._ahead += ahead
        self._ended = False  # where CLOSE is among those read ahead
        return xml

    def _store(self, messages: list[Message], *, must: bool) -> None:
        """Keep what comes in a record, if the host keeps any, and make no image."""
        self._record = self._services.new_record()
        if self._record is None and must:
            raise ConfigError("savedataonly needs a host that keeps records: mnet serve --records")
        for message in messages:
            self._log(message)
        while not self._ended:
            self._next()

    def _before_stream(self) -> Message:
        """Return the next message that is not a text."""
        message = self._next()
        while isinstance(message, Text):
            message = self._next()
        return message

    def _scan(self, xml: str, stream: Stream, header: Header, geometry: Geometry) -> None:
        record, ledger = self._record, self._ledger
        link = self._link(stream, geometry)
        worker = None
        scan = Scan(
            geometry=geometry,
            models=self._services.models,
            masks=link,
            record=record,
            noise=self._services.noise,
        )
        started = time.time()
        error = ""
        try:
            front, heavy = split(stream.gadgets)
            if heavy:
                text = header.xml.decode(errors="replace")
                worker = self._services.open_worker(xml, text, self._send_image)
            for gadget in front:
                gadget.warm(scan)
            link.warmed()
            for item in chain(front, scan, intake(scan, self._items(stream.reads))):
                self._hand_on(item, worker)
            if worker is not None:
                worker.finish()
            if self._cut:
                raise ProtocolError(f"the connection ended without CLOSE: {self._cut}")
        except BaseException as failure:
            error = f"{type(failure).__name__}: {failure}"
            if worker is not None:
                worker.abandon()
            if isinstance(failure, GadgetsError):
                self._fail(error)
            raise
        finally:
            link.close()
            counts = dict(scan.counts) | ({} if worker is None else worker.counts)
            self._meter.counts(counts)
            tell(ledger, counts)
            if record is not None:
                used = {"pipeline": xml, "own_gadgets": dict(stream.own)}
                record.finish(summary(scan, ledger, counts, started, error) | used)

    def _link(self, stream: Stream, geometry: Geometry) -> ReconLink:
        """Open the way that this scan's masks take."""
        if any(gadget.in_band for gadget in stream.gadgets):
            hello = self._hello or geometry.user.get(HELLO)
            return in_band_link(hello, geometry.scan_token, self._send, self._observe)
        return self._services.masks.open(geometry.scan_token, self._observe)

    def _hand_on(self, item: Item, worker: WorkerScan | None) -> None:
        """Send what comes out of the front to the worker or, where it is finished, the client."""
        if isinstance(item, Burst):
            for line in item.lines():
                self._hand_on(line, worker)
            return
        if isinstance(item, Acquisition | Waveform):
            if type(item) in self._writes:
                self._send(item)
            return  # without a writer it ends here: nothing behind the front knows it
        self._ledger.item(item)
        self._meter.item(item)
        if worker is not None:
            worker.put(item)
        elif isinstance(item, Image):
            self._send_image(item)

    def _items(self, reads: frozenset[type]) -> Iterator[Item]:
        """Read the stream up to CLOSE; a client that vanishes ends it too, and is noted."""
        while not self._ended:
            try:
                message = self._next_lines()
            except (EOFError, OSError) as error:
                self._ended, self._cut = True, str(error)
                self._sock.settimeout(SEND_S)
                log.warning("the client vanished: %s", error)
                return
            if isinstance(message, Close):
                return
            if isinstance(message, Text):
                self._remark(message)
            elif isinstance(message, Image):
                raise ProtocolError("image-to-image sessions are not supported")
            elif not isinstance(message, Acquisition | Burst | Waveform):
                raise ProtocolError(f"{describe(message)} in the stream")
            elif type(one := _first(message)) not in reads:
                raise ProtocolError(f"{describe(one)} came, for which the pipeline has no reader")
            else:
                if isinstance(message, Burst):
                    self._ledger.burst(message)
                    self._meter.lines(len(message.headers))
                elif isinstance(message, Acquisition):
                    self._ledger.line(message)
                    self._meter.lines(1)
                yield message

    def _observe(self, direction: str, header: dict[str, Any]) -> None:
        """Note a message of the mask channel."""
        self._meter.mask_message(direction, header)
        if self._record is not None:
            self._record.mask("sent" if direction == "sent" else "received", header)

    def _remark(self, message: Text) -> None:
        """Log a text; parameters that would change a scan which has begun are refused."""
        log.info("the client sent a text of %d characters", len(message.text))  # it may name anyone
        if message.text != self._settings:
            fire_dialect.refuse_late(self._module, message.text)

    def _send_image(self, image: Image) -> None:
        if Image not in self._writes:
            raise GadgetError("the pipeline made an image, but lists no ImageWriter")
        self._ledger.image(image)
        if not self._failed:
            self._ledger.sent(image)
            self._meter.image(image)
            self._send(image)


def _first(message: Acquisition | Burst | Waveform) -> Acquisition | Waveform:
    return next(message.lines()) if isinstance(message, Burst) else message
