"""One scan from its header to its summary: the pipeline's front here, its heavy end in the worker.

Images go out as the worker hands them over. Only messages that the pipeline lists a writer for are
sent, besides masks to a client that asked for them in this stream.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from ..errors import GadgetError, ProtocolError
from ..files.noise_store import NoiseStore
from ..limits.scan_size import check_header, check_line
from ..limits.settings import Limits
from ..mask.in_band import in_band_link
from ..mask.messages import IN_BAND_HELLO
from ..mask.recon_end import ReconLink
from ..mask.recon_port import ReconPort
from ..mrd.geometry import Geometry
from ..mrd.items import Acquisition, Burst, Image, Item, Waveform
from ..mrd.messages import Message, Text, describe
from ..pipeline.catalogue import OURS, Catalogue
from ..pipeline.chain import Stream, chain, split
from ..pipeline.imaging_space import imaging_space_first
from ..pipeline.intake import intake
from ..pipeline.models import Models
from ..pipeline.scan import Scan
from ..pipeline.turn import Turn
from ..records.writer import Record
from ..worker.handle import WorkerScan
from .connection import Connections, MrdConnection
from .prometheus import Meter, Metrics, Watch
from .remarks import remarks
from .summary import Ledger, summary, tell

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
    load: Callable[[str], str]  # a pipeline's XML by its name
    allow_inline: bool = False
    catalogue: Callable[[], Catalogue] = lambda: OURS  # the gadgets that a pipeline may name
    metrics: Metrics = field(default_factory=Metrics)
    watch: Callable[[str], Watch] | None = None  # who looks on at a session, by its random id
    noise: NoiseStore | None = None
    connections: Connections = field(default_factory=Connections)
    turn: Turn = field(default_factory=Turn)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRun:
    """One scan; `run` it once. `remark` takes the texts that come in its stream."""

    connection: MrdConnection
    services: Services
    meter: Meter
    stream: Stream
    xml: str  # of the pipeline, as the worker builds it again
    header: bytes
    geometry: Geometry
    used: Mapping[str, Any]  # what the record says made it
    hello: str | None  # what the client says of the masks it takes, beside the header
    remark: Callable[[str], None]
    ledger: Ledger = field(default_factory=Ledger)

    def run(self) -> None:
        """Take lines until they end, and send what becomes of them.

        A failure is told, and the input then read to its end, before the record is finished.
        """
        connection, services = self.connection, self.services
        link = self._link()
        scan = Scan(
            geometry=self.geometry,
            models=services.models,
            masks=link,
            record=connection.record,
            noise=services.noise,
            turn=services.turn,
        )
        worker, started, error = None, time.time(), ""
        try:
            front, heavy = split(self.stream.gadgets)
            for gadget in front:
                gadget.warm(scan)
            link.warmed()
            header, messages = imaging_space_first(self.header, connection.stream(scan.slack))
            if header is not self.header:
                scan = replace(scan, geometry=Geometry.parse(header))
                check_header(scan.geometry, self.services.limits)
            if heavy:
                worker = self._open_worker(header)
            arrived: Iterator[Acquisition | Burst | Waveform] = filter(self._arrived, messages)
            if self.meter.watch is not None:
                arrived = self.meter.watch.passing(arrived)
            with closing(intake(scan, arrived)) as lines:
                for item in chain(front, scan, lines):
                    with services.turn.aside():
                        self._hand_on(item, worker)
            if worker is not None:
                worker.finish()
            connection.check_taken()
            if connection.cut:
                raise ProtocolError(f"the connection ended without CLOSE: {connection.cut}")
        except BaseException as failure:
            error = f"{type(failure).__name__}: {failure}"
            if worker is not None:
                worker.drop()
            if isinstance(failure, Exception):
                self.meter.failed(failure)  # before the input is read to its end
                connection.fail(failure)
            raise
        finally:
            link.close()
            counts = dict(scan.counts) | ({} if worker is None else worker.counts)
            self._sum_up(counts, started, error)

    def _open_worker(self, header: bytes) -> WorkerScan:
        text = header.decode(errors="replace")
        return self.services.open_worker(self.xml, text, self._send_image)

    def _link(self) -> ReconLink:
        """Open the way that this scan's masks take."""
        token = self.geometry.scan_token
        if any(gadget.in_band for gadget in self.stream.gadgets):
            hello = self.hello or self.geometry.user.get(IN_BAND_HELLO)
            return in_band_link(hello, token, self.connection.send, self._observe)
        return self.services.masks.open(token, self._observe)

    def _arrived(self, message: Message | Burst) -> TypeGuard[Acquisition | Burst | Waveform]:
        """Note what was read, and say whether it goes on.

        ProtocolError for what cannot be there, GadgetError for a line without room, PeerGone if
        nobody takes what becomes of it.
        """
        self.connection.check_taken()
        if isinstance(message, Text):
            self.remark(message.text)
            return False
        if isinstance(message, Image):
            raise ProtocolError("image-to-image sessions are not supported")
        if not isinstance(message, Acquisition | Burst | Waveform):
            raise ProtocolError(f"{describe(message)} in the stream")
        kind = Acquisition if isinstance(message, Burst) else type(message)
        if kind not in self.stream.reads:
            one = next(message.lines()) if isinstance(message, Burst) else message
            raise ProtocolError(f"{describe(one)} came, for which the pipeline has no reader")
        if isinstance(message, Acquisition | Burst):
            check_line(self.geometry, message.data.shape, self.services.limits)
        if isinstance(message, Burst):
            self.ledger.burst(message)
            self.meter.lines(len(message.headers))
        elif isinstance(message, Acquisition):
            self.ledger.line(message)
            self.meter.lines(1)
        return True

    def _hand_on(self, item: Item, worker: WorkerScan | None) -> None:
        """Send what comes out of the front to the worker or, where it is finished, the client."""
        if isinstance(item, Burst):
            for line in item.lines():
                self._hand_on(line, worker)
            return
        if isinstance(item, Acquisition | Waveform):
            if type(item) in self.stream.writes:
                self.connection.send(item)
            return  # without a writer it ends here: nothing behind the front knows it
        self.ledger.item(item)
        self.meter.item(item)
        if worker is not None:
            worker.put(item)
        elif isinstance(item, Image):
            self._send_image(item)

    def _send_image(self, image: Image) -> None:
        if Image not in self.stream.writes:
            raise GadgetError("the pipeline made an image, but lists no ImageWriter")
        self.ledger.image(image)
        if not self.connection.failed:
            self.ledger.sent(image)
            self.meter.image(image)
            self.connection.send(image)
            self.connection.check_taken()

    def _observe(self, direction: str, header: dict[str, Any]) -> None:
        """Note a message of the mask channel."""
        self.meter.mask_message(direction, header)
        if self.connection.record is not None:
            self.connection.record.mask("sent" if direction == "sent" else "received", header)

    def _sum_up(self, counts: dict[str, int], started: float, error: str) -> None:
        self.meter.counts(counts)
        tell(self.ledger, counts)
        if not self.connection.failed:  # an error says more
            heavy = any(gadget.heavy for gadget in self.stream.gadgets)
            makes_images = heavy and Image in self.stream.writes
            self.connection.remark(
                remarks(self.ledger, counts, self.geometry, makes_images=makes_images)
            )
        if self.connection.record is not None:
            found = summary(self.geometry, self.ledger, counts, started, error)
            self.connection.record.finish({**found, **self.used})
