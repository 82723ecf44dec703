"""One connection from start to end: a client's, or that of a C++ Gadgetron whose node we are.

Whatever fails, the other side is told once and gets no further image, its input is read to the end
and recorded, and other connections go on. A client gets an ERROR text and CLOSE.

A parent Gadgetron takes images, ERROR (8) and CLOSE; everything else from an external node is an
"illegal message id" to it. It reads on until our CLOSE, and a node that ends with unread input
resets the connection, by which messages on the way are lost. Therefore a failure is told at once,
the input is then read to its end, and CLOSE comes last.
"""

import logging
import socket
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ConfigError, GadgetError, GadgetsError, ProtocolError
from ..limits.scan_size import check_header
from ..limits.settings import Limits
from ..logs import new_scan
from ..mrd.geometry import Geometry
from ..mrd.items import Image
from ..mrd.messages import Close, Error, Header, Message, Text, describe
from ..pipeline.build import configure, parse, parse_stream
from ..pipeline.client_weights import check_weights
from . import fire_dialect
from .choice import Chosen, OnlyKeep, before_stream, choose, choose_node
from .connection import LINGER_S, Manner, MrdConnection
from .prometheus import Meter
from .scan_run import ScanRun, Services
from .summary import Ledger

log = logging.getLogger(__name__)
DRAIN_S = 60.0  # of silence until an erroneous scan's input counts as over
SURVIVE = frozenset({1, 3, 5, 6, 7, 8})  # pixel types that Gadgetron takes from a node: no int16


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Who connects: how that side is treated, what it asks for, and what it must be told of."""

    manner: Manner
    choose: Callable[[MrdConnection, Services], Chosen | OnlyKeep | None]
    check: Callable[[Ledger], None]  # raises GadgetError for what only an error can tell


def serve(
    sock: socket.socket, services: Services, kind: Kind, ahead: Iterable[Message] = ()
) -> Exception | None:
    """Serve one connection, and return what failed; never raises for anything a peer can do.

    `ahead` are messages that somebody else has read from the socket already.
    """
    connection = MrdConnection(sock, kind.manner, services.answer, ahead, services.limits)
    session = new_scan()
    meter = Meter(services.metrics, None if services.watch is None else services.watch(session))
    meter.begin()
    services.connections.add(connection)
    try:
        scan = _begin(connection, services, kind, meter)
        if scan is not None:
            scan.run()
            kind.check(scan.ledger)
    except Exception as error:  # the connection boundary: told to the peer, logged in full
        meter.failed(error)
        if not isinstance(error, GadgetsError):
            log.exception("the session failed")
        connection.fail(error)
        return error
    except BaseException as error:  # an interrupt is no normal end
        connection.tell(error)
        raise
    finally:
        connection.end()
        services.connections.remove(connection)
        meter.end()
    return connection.unsent


def refuse(sock: socket.socket, kind: Kind, limits: Limits) -> None:
    """Tell a connection that the host has sessions enough, and end it."""
    short = replace(limits, stall_s=min(limits.stall_s, LINGER_S))
    connection = MrdConnection(sock, kind.manner, lambda key: "", limits=short)
    connection.refuse(
        ConfigError(
            f"the host serves {limits.sessions} sessions, and no more at a time "
            "(mnet serve --max-sessions): try again when one has ended"
        )
    )


def _begin(
    connection: MrdConnection, services: Services, kind: Kind, meter: Meter
) -> ScanRun | None:
    """Read up to the stream; None where the session ends without one."""
    chosen = kind.choose(connection, services)
    if isinstance(chosen, OnlyKeep):
        _keep(connection, services, must=chosen.must)
    if not isinstance(chosen, Chosen):
        return None
    services.wait_warm()  # what a pipeline names needs torch to be looked at
    catalogue = services.catalogue()
    xml, unknown = configure(chosen.xml, chosen.parameters, catalogue)
    if unknown:
        log.warning("the client set parameters that the pipeline does not know")  # by any name
        connection.remark(unknown)
    stream = parse_stream(xml, catalogue)
    if chosen.inline or chosen.parameters:
        check_weights(stream.gadgets, () if chosen.inline else parse(chosen.xml, catalogue))
    header = before_stream(connection)
    if isinstance(header, Close):
        return None
    if not isinstance(header, Header):
        raise ProtocolError(f"{describe(header)} before the MRD header")
    geometry = Geometry.parse(header.xml)
    check_header(geometry, services.limits)
    used = {"pipeline": xml, "own_gadgets": dict(stream.own)}
    _record(connection, services, used | {"measurement_id": geometry.measurement_id})
    connection.keep(header)
    if meter.watch is not None:
        meter.watch.begun(geometry, chosen.module)

    def remark(text: str) -> None:
        log.info("the client sent a text of %d characters", len(text))  # it may name anyone
        if text != chosen.settings:
            fire_dialect.refuse_late(chosen.module, text)

    return ScanRun(
        connection=connection,
        services=services,
        meter=meter,
        stream=stream,
        xml=xml,
        header=header.xml,
        geometry=geometry,
        used=used,
        hello=chosen.hello,
        remark=remark,
    )


def _record(connection: MrdConnection, services: Services, about: dict[str, Any]) -> None:
    """Have what follows recorded, if the host keeps records; GadgetsError where it must and cannot.

    The summary is there before the first line, so that a scan that is cut off can be made good.
    """
    connection.record = services.new_record()
    if connection.record is not None:
        connection.record.begin({"started": time.time()} | about)


def _keep(connection: MrdConnection, services: Services, *, must: bool) -> None:
    """Keep what comes in a record, if the host keeps any, and make no image."""
    _record(connection, services, {"pipeline": ""})
    if connection.record is None and must:
        raise ConfigError("savedataonly needs a host that keeps records: mnet serve --records")
    connection.expect_lines()
    connection.read_to_end()


def _chosen_by_client(connection: MrdConnection, services: Services) -> Chosen | OnlyKeep | None:
    return choose(connection, services.load, services.noise, allow_inline=services.allow_inline)


def _check_survives(message: Message) -> None:
    """Raise ProtocolError for what the C++ side of the connection cannot read."""
    if isinstance(message, Image):
        data_type = int(message.header["data_type"])
        if data_type not in SURVIVE:
            raise ProtocolError(
                f"image data type {data_type} is not taken from an external node, expected one of "
                f"{', '.join(map(str, sorted(SURVIVE)))}"
            )
    elif not isinstance(message, Error | Close):
        raise ProtocolError(f"{type(message).__name__} is not taken from an external node")


def _check_all_made(ledger: Ledger) -> None:
    """Raise GadgetError where lines of an image are missing: a parent learns of it by no image."""
    missing = ledger.missing()
    if missing:
        key = missing[0]
        there = len(ledger.received.get((key.slice, key.repetition), ()))
        raise GadgetError(
            f"lines are missing in {len(missing)} images, which were therefore not made; the first "
            f"is of slice {key.slice}, contrast {key.contrast}, repetition {key.repetition}, of "
            f"which {there} lines came"
        )


CLIENT = Kind(
    manner=Manner(
        peer="client",
        complaint=lambda text, error: Text(f"ERROR: {text}\n"),
        remark=lambda text: Text(f"WARNING: {text}\n"),
        check=lambda message: None,
        half_open=True,
        drain_s=DRAIN_S,
    ),
    choose=_chosen_by_client,
    check=lambda ledger: None,
)
PARENT = Kind(
    manner=Manner(
        peer="parent Gadgetron",
        complaint=lambda text, error: Error("".join(traceback.format_exception(error))),
        remark=None,  # it takes no text from a node
        check=_check_survives,
        half_open=False,
        drain_s=None,
    ),
    choose=lambda connection, services: choose_node(connection),
    check=_check_all_made,
)
