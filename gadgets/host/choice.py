"""Which pipeline a connection asks for.

A client names one of the host's pipelines, sends its XML where the host allows that, names a module
in FIRE's dialect, or asks a question instead. A parent Gadgetron sends the `<configuration>` of its
external node.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ..errors import ConfigError, ProtocolError
from ..files.noise_store import NoiseStore
from ..mrd.item_bytes import decode
from ..mrd.items import Image
from ..mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Dependency,
    Message,
    Text,
    describe,
)
from . import fire_dialect, gadgetron_queries
from .connection import MrdConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A pipeline, and what its client said with it."""

    xml: str
    parameters: Mapping[str, str] = field(default_factory=dict)  # properties to set in it
    module: str = ""  # its name, where the client chose it by name
    settings: str = ""  # the client's text of parameters
    hello: str | None = None  # and what it says there of the masks it takes
    inline: bool = False  # the client wrote the XML itself


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlyKeep:
    """No pipeline: what follows is at most recorded."""

    must: bool  # a host that keeps no records fails


def choose(
    connection: MrdConnection,
    load: Callable[[str], str],
    noise: NoiseStore | None,
    *,
    allow_inline: bool,
) -> Chosen | OnlyKeep | None:
    """Return what a client asks for, None where it asked a question and has its answer.

    `load` gives a pipeline's XML by its file's name. Raises ConfigError and ProtocolError.
    """
    message = connection.next()
    if isinstance(message, Close):
        return None
    if isinstance(message, ConfigFile):
        return _named(connection, message.name, load)
    if not isinstance(message, ConfigScript):
        raise ProtocolError(f"{describe(message)} before the configuration")
    text = decode(message.xml).strip("\ufeff \t\r\n")
    if not text.startswith("<"):
        return _named(connection, text, load)  # some clients send a module's name as text
    query = gadgetron_queries.inline(message.xml, noise)
    if query is not None:
        _answer_at_close(connection, query)
        return None
    if not allow_inline:
        raise ConfigError(
            "pipelines sent by a client are refused: name one of the host's own, or start "
            "the host with --allow-inline-config"
        )
    return Chosen(xml=text, inline=True)


def choose_node(connection: MrdConnection) -> Chosen:
    """Return the pipeline of a parent's external node; ConfigError where it has none."""
    message = connection.next()
    if not isinstance(message, ConfigScript):
        raise ProtocolError(f"{type(message).__name__} before the node's configuration")
    return Chosen(xml=node_pipeline(message.xml))


def before_stream(connection: MrdConnection) -> Message:
    """Return the next message that is not a text."""
    message = connection.next()
    while isinstance(message, Text):
        message = connection.next()
    return message


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


def _named(
    connection: MrdConnection, name: str, load: Callable[[str], str]
) -> Chosen | OnlyKeep | None:
    query = gadgetron_queries.named(name)
    if query is not None or name == gadgetron_queries.IS_ALIVE:
        _answer_at_close(connection, query)
        return None
    if not name.endswith(fire_dialect.SUFFIX):
        return _fire(connection, name, load)
    return Chosen(xml=load(name), module=name.removesuffix(fire_dialect.SUFFIX))


def _answer_at_close(connection: MrdConnection, answer: Dependency | None) -> None:
    """Read to the end of a session without data, and answer then."""
    connection.read_to_end()
    if answer is not None:
        connection.send(answer)


def _fire(connection: MrdConnection, name: str, load: Callable[[str], str]) -> Chosen | OnlyKeep:
    """Read on to where a FIRE client's parameters may stand, and give the pipeline it means."""
    header = before_stream(connection)
    ahead = [header] if isinstance(header, Close) else [header, connection.next()]
    text = ahead[-1].text if isinstance(ahead[-1], Text) else None
    request = fire_dialect.request(name, text)
    if request.module in (fire_dialect.DISCARD, fire_dialect.SAVE):
        connection.put_back(ahead)
        return OnlyKeep(must=request.module == fire_dialect.SAVE)
    if isinstance(ahead[-1], Image):
        raise ProtocolError("image-to-image sessions are not supported: send raw data")
    xml = load(request.module + fire_dialect.SUFFIX)
    connection.put_back(ahead)
    return Chosen(
        xml=xml,
        parameters=request.parameters,
        module=request.module,
        settings=text or "",
        hello=request.hello,
    )
