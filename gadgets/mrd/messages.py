"""The MRD streaming protocol, version 1, without any I/O.

Every message is a little-endian u16 id and a body whose layout the id decides; there is no length
around it, so an unknown id ends a stream for good. The reader takes ``read(n)``, which gives
exactly ``n`` bytes or raises EOFError; the writer gives buffers.

Layouts: https://ismrmrd.readthedocs.io/en/latest/mrd_messages.html; 1028 is not in that text and
follows what research installations on scanners use.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import ProtocolError
from .header_layouts import ACQUISITION_ID
from .item_bytes import (
    Buffer,
    Read,
    block,
    decode,
    read_acquisition,
    read_block,
    read_image,
    read_waveform,
    write_acquisition,
    write_image,
    write_waveform,
)
from .items import Acquisition, Image, Waveform

_NAME = 1024  # bytes of the fixed field of a configuration's name

# Ids that exist but are not read here, for a message that helps.
_OTHERS = {
    1013: "cloud job",
    1014: "cloud job",
    1018: "DICOM",
    1023: "reconstruction data between nodes",
    1024: "image array between nodes",
    1030: "array",
    1050: "acquisition bucket between nodes",
    1051: "bundle between nodes",
} | dict.fromkeys(
    [*range(1001, 1008), *range(1009, 1013), *range(1015, 1018), 1020, 1021],
    "deprecated since 2015",
)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Name of a pipeline of the host."""

    name: str


@dataclass(frozen=True, slots=True)
class ConfigScript:
    """A pipeline's XML."""

    xml: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """The MRD header's XML."""

    xml: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The sender will send nothing more."""


@dataclass(frozen=True, slots=True)
class Text:
    """A line for the other side's log."""

    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A question about the host."""

    correlation: int
    key: str


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a query."""

    correlation: int
    text: str


@dataclass(frozen=True, slots=True)
class Error:
    """A failure, from an external module to its host only."""

    text: str


@dataclass(frozen=True, slots=True)
class Dependency:
    """The host's word on stored noise, ismrmrdMeta XML."""

    xml: bytes


@dataclass(frozen=True, slots=True)
class Feedback:
    """A named blob for the sequence; only for peers that asked for it."""

    name: str
    data: bytes


Message = (
    ConfigFile
    | ConfigScript
    | Header
    | Close
    | Text
    | Query
    | Response
    | Error
    | Dependency
    | Feedback
    | Acquisition
    | Image
    | Waveform
)


def read_message(read: Read) -> Message:
    """Read one message.

    Raises EOFError where the stream ends, between messages or inside one, and ProtocolError for
    an unknown id, a length out of bounds or a body that cannot be.
    """
    (number,) = struct.unpack("<H", read(2))
    kind = _KINDS.get(number)
    if kind is None:
        what = _OTHERS.get(number, "unknown")
        raise ProtocolError(f"message id {number} ({what}) is not read here; known: {_known()}")
    try:
        message: Message = kind.read(read)
    except EOFError as error:
        raise EOFError(f"the stream ended inside message {number} {kind.name}: {error}") from error
    return message


def message_buffers(message: Message) -> list[Buffer]:
    """Encode a message as buffers to send one after the other; samples are not copied.

    Raises ProtocolError where an item's header and its data disagree.
    """
    number = _IDS.get(type(message))
    if number is None:
        raise ProtocolError(f"{type(message).__name__} is no message; known: {_known()}")
    return [struct.pack("<H", number), *_KINDS[number].write(message)]


def describe(message: Message) -> str:
    """Return a message's id and name."""
    return f"message {(number := _IDS[type(message)])} {_KINDS[number].name}"


def write_message(message: Message) -> bytes:
    """Encode a message in one piece."""
    return b"".join(message_buffers(message))


def buffer_reader(data: Buffer) -> Read:
    """Read from bytes in memory, without copying them."""
    view = memoryview(data)
    position = 0

    def read(n: int) -> memoryview:
        nonlocal position
        if n > len(view) - position:
            raise EOFError(f"{n - len(view) + position} of {n} bytes missing")
        position += n
        return view[position - n : position]

    return read


def _known() -> str:
    return ", ".join(f"{number} {kind.name}" for number, kind in _KINDS.items())


def _read_config_file(read: Read) -> ConfigFile:
    return ConfigFile(decode(bytes(read(_NAME)).partition(b"\0")[0]))


def _write_config_file(message: ConfigFile) -> list[Buffer]:
    name = message.name.encode()
    if len(name) > _NAME:
        raise ProtocolError(f"a configuration's name has {len(name)} bytes, at most {_NAME} fit")
    return [name.ljust(_NAME, b"\0")]


def _read_query(read: Read) -> Query:
    reserved, correlation = struct.unpack("<QQ", read(16))
    if reserved:
        raise ProtocolError(f"query: the reserved field must be 0, got {reserved}")
    return Query(correlation, decode(read_block(read, "<Q", "query")))


def _write_query(message: Query) -> list[Buffer]:
    return [struct.pack("<QQ", 0, message.correlation), *block("<Q", message.key.encode())]


def _read_response(read: Read) -> Response:
    (correlation,) = struct.unpack("<Q", read(8))
    return Response(correlation, decode(read_block(read, "<Q", "response")))


def _write_response(message: Response) -> list[Buffer]:
    return [struct.pack("<Q", message.correlation), *block("<Q", message.text.encode())]


def _read_feedback(read: Read) -> Feedback:
    name = decode(read_block(read, "<I", "name of feedback"))
    return Feedback(name, read_block(read, "<I", "feedback"))


def _write_feedback(message: Feedback) -> list[Buffer]:
    return [*block("<I", message.name.encode() + b"\0"), *block("<I", message.data)]


class _Kind(NamedTuple):
    name: str
    type: type[Any]
    read: Callable[[Read], Any]
    write: Callable[[Any], list[Buffer]]


_KINDS: dict[int, _Kind] = {
    1: _Kind("CONFIG_FILE", ConfigFile, _read_config_file, _write_config_file),
    2: _Kind(
        "CONFIG_SCRIPT",
        ConfigScript,
        lambda read: ConfigScript(read_block(read, "<I", "configuration")),
        lambda message: block("<I", message.xml),
    ),
    3: _Kind(
        "HEADER",
        Header,
        lambda read: Header(read_block(read, "<I", "MRD header")),
        lambda message: block("<I", message.xml),
    ),
    4: _Kind("CLOSE", Close, lambda read: Close(), lambda message: []),
    5: _Kind(
        "TEXT",
        Text,
        lambda read: Text(decode(read_block(read, "<I", "text"))),
        lambda message: block("<I", message.text.encode()),
    ),
    6: _Kind("QUERY", Query, _read_query, _write_query),
    7: _Kind("RESPONSE", Response, _read_response, _write_response),
    8: _Kind(
        "ERROR",
        Error,
        lambda read: Error(decode(read_block(read, "<Q", "error"))),
        lambda message: block("<Q", message.text.encode()),
    ),
    ACQUISITION_ID: _Kind("ACQUISITION", Acquisition, read_acquisition, write_acquisition),
    1019: _Kind(
        "DEPENDENCY",
        Dependency,
        lambda read: Dependency(read_block(read, "<Q", "dependency")),
        lambda message: block("<Q", message.xml),
    ),
    1022: _Kind("IMAGE", Image, read_image, write_image),
    1026: _Kind("WAVEFORM", Waveform, read_waveform, write_waveform),
    1028: _Kind("FEEDBACK", Feedback, _read_feedback, _write_feedback),
}
_IDS = {kind.type: number for number, kind in _KINDS.items()}
IDS = frozenset(_KINDS)  # of the messages that are read here
