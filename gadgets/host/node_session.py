"""One scan as an external node of the C++ Gadgetron: acquisitions in, images out.

The parent sends the node's `<configuration>`, the MRD header, items and CLOSE. It takes images,
ERROR (8) and CLOSE; everything else from an external node is an "illegal message id" to it. It
reads on until our CLOSE, and a node that ends with unread input resets the connection, by which
messages on the way are lost. Therefore a failure is told at once, the input is then read to its
end, and CLOSE comes last.
"""

import logging
import socket
import sys
import traceback
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ..errors import ConfigError, GadgetError, GadgetsError, ProtocolError
from ..mrd.header_layouts import ImageKey, image_key, is_imaging
from ..mrd.items import Acquisition, Image, Item
from ..mrd.messages import Close, ConfigScript, Error, Message, message_buffers
from .session import Services, Session

log = logging.getLogger(__name__)
SURVIVE = frozenset({1, 3, 5, 6, 7, 8})  # pixel types that Gadgetron takes from a node: no int16


class ParentGone(GadgetsError):  # noqa: N818  it says what happened
    """The Gadgetron that this node belongs to has vanished."""


class ExternalSession(Session):
    """Serve one parent Gadgetron, start to end; `failure` says afterwards what went wrong.

    `before` are messages that somebody else has read from the socket already.
    """

    def __init__(
        self, sock: socket.socket, services: Services, before: Iterable[Message] = ()
    ) -> None:
        super().__init__(sock, services)
        self.failure: BaseException | None = None
        self._begun: set[ImageKey] = set()  # images of which lines came
        self._ahead.extend(before)

    def _configuration(self) -> str:
        message = self._next()
        if not isinstance(message, ConfigScript):
            raise ProtocolError(f"{type(message).__name__} before the node's configuration")
        return node_pipeline(message.xml)

    def _run(self) -> None:
        try:
            super()._run()
        except (OSError, EOFError) as error:  # not the parent's connection: `_next`, `_send`
            raise GadgetError(f"{type(error).__name__}: {error}") from error
        missing = sorted(self._begun - {frame.key for frame in self._ledger.frames})
        if missing:  # the parent has no other way to learn of it than an error
            raise GadgetError(
                f"lines are missing in {len(missing)} images, which were therefore not made; "
                f"the first is of slice {missing[0].slice}, contrast {missing[0].contrast}, "
                f"repetition {missing[0].repetition}"
            )

    def _items(self, reads: frozenset[type]) -> Iterator[Item]:
        for item in super()._items(reads):
            if isinstance(item, Acquisition) and is_imaging(int(item.header["flags"])):
                key = image_key(item.header)
                if key.encoding == 0:  # images are made of no other
                    self._begun.add(key)
            yield item

    def _next(self) -> Message:
        try:
            return super()._next()
        except (EOFError, OSError) as error:
            self._ended = self._gone = True
            raise ParentGone(f"the parent Gadgetron vanished: {error}") from error

    def _send(self, message: Message) -> None:
        _check_survives(message)
        with self._write_lock:
            if self._gone or (self._failed and isinstance(message, Image)):
                return
            try:
                for part in message_buffers(message):
                    self._sock.sendall(part)
            except OSError as error:
                self._gone = True
                self.failure = self.failure or error
                log.warning("the parent takes nothing more: %s", error)

    def _fail(self, text: str) -> None:
        """Tell the parent at once, then read its input to the end, however long the scan lasts."""
        if self._failed:
            return
        self._failed = True
        self.failure = sys.exception()
        log.error("%s", text)
        self._send(Error(traceback.format_exc()))
        self._drain()

    def _drain(self) -> None:
        try:
            while not self._ended:
                self._next()
        except GadgetsError as error:  # the rest can no longer be told apart into messages
            self._cut = str(error)

    def _end(self) -> None:
        if sys.exception() is not None and not self._failed:  # an interrupt is no normal end
            self._failed = True
            self._send(Error(traceback.format_exc()))
        super()._end()


def node_pipeline(configuration: bytes) -> str:
    """Return the pipeline whose external node has this `<configuration>`.

    Raises ConfigError where the node has none, or one that is not XML.
    """
    root = node_configuration(configuration)
    pipeline = Element("configuration")
    SubElement(pipeline, "version").text = "2"
    external = SubElement(SubElement(pipeline, "stream"), "external")
    SubElement(external, "execute", name="gadgets.external", target="pipeline", type="python")
    external.append(root)
    return ElementTree.tostring(pipeline, encoding="unicode")


def node_configuration(configuration: bytes) -> Element:
    """Return the node's `<configuration>` element; ConfigError where it is missing or broken."""
    try:
        root = ElementTree.fromstring(configuration.rstrip(b"\0"))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        # Gadgetron sends the XML declaration alone for a node without <configuration>.
        raise ConfigError(
            f"the <external> node has no readable <configuration> that lists gadgets: {error}"
        ) from None
    if root.tag != "configuration":
        raise ConfigError(f"the node's configuration is <{root.tag}>, expected <configuration>")
    return root


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
