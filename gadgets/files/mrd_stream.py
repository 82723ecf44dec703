"""MRD streams in files and pipes, as siemens_to_ismrmrd and ismrmrd_hdf5_to_stream write them.

The bytes are those of a connection (`gadgets.mrd.messages`): perhaps a configuration and texts,
then the MRD header, readouts and waveforms, and CLOSE. A stream that ends without it was cut.
"""

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError
from ..mrd.header_layouts import ACQUISITION_HEADER
from ..mrd.item_bytes import Read
from ..mrd.items import Acquisition, Ints, Waveform
from ..mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Header,
    Message,
    Text,
    describe,
    read_message,
)

LOOK = 1026  # bytes that tell a stream: the id and name of a configuration


def is_stream(start: bytes) -> bool:
    """Say whether a file that begins with these bytes, LOOK of them, is an MRD stream."""
    number = int.from_bytes(start[:2], "little")
    if number in (2, 3):  # a configuration's XML, or the header
        return start[6:].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
    name = start[2:].rstrip(b"\0")
    return number == 1 and len(start) == LOOK and name.isascii() and name.decode().isprintable()


def is_pipe(path: Path) -> bool:
    """Say whether a path can be read only once, from its start to its end."""
    mode = path.stat().st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def reader(file: BinaryIO) -> Read:
    """Read exactly so many bytes of a file or pipe; EOFError where it ends before."""

    def read(n: int) -> memoryview:
        data = memoryview(bytearray(n))  # writable, as from a socket
        done = 0
        while done < n:
            got = file.readinto(data[done:])  # type: ignore[attr-defined]
            if not got:
                raise EOFError(f"{n - done} of {n} bytes missing")
            done += got
        return data

    return read


def read_header(read: Read) -> bytes:
    """Return the MRD header of a stream, past what may stand before it; ProtocolError if none."""
    for message in messages(read):
        if isinstance(message, Header):
            return message.xml
        if not isinstance(message, ConfigFile | ConfigScript | Text):
            raise ProtocolError(f"the MRD stream has {describe(message)} before its header")
    raise ProtocolError("the MRD stream ends before its header")


def read_items(read: Read) -> Iterator[Acquisition | Waveform]:
    """Give what follows the header up to CLOSE.

    Raises
    ------
    ProtocolError
        If the stream is cut, or holds anything else than readouts, waveforms and texts.
    """
    for message in messages(read):
        if isinstance(message, Acquisition):
            yield message
        elif item := _raw(message):
            yield item


def _raw(message: Message) -> Waveform | None:
    """Return a waveform, None for a text; ProtocolError for what is no raw data."""
    if isinstance(message, Waveform):
        return message
    if isinstance(message, Text):
        return None
    raise ProtocolError(f"the MRD stream holds {describe(message)}, expected raw data")


def messages(read: Read) -> Iterator[Message]:
    """Give all messages before CLOSE; ProtocolError where the stream ends without it."""
    number = 0
    while True:
        try:
            message = read_message(read)
        except (EOFError, struct.error) as error:
            raise ProtocolError(
                f"the MRD stream is cut: it ends after {number} messages without CLOSE ({error})"
            ) from error
        if isinstance(message, Close):
            return
        number += 1
        yield message


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MrdStreamFile:
    """The raw data of a stream on disk; readouts stay there until they are asked for."""

    kind: ClassVar[str] = "MRD stream"
    path: Path
    header: bytes  # XML
    subject: str  # whose scan it is: the file's name
    assumed: ClassVar[tuple[str, ...]] = ()
    _headers: NDArray[np.void]
    _places: tuple[int, ...]  # where in the file every readout begins
    _waveforms: tuple[Waveform, ...]

    @classmethod
    def of(cls, path: Path) -> "MrdStreamFile":
        """Read a stream once and keep its headers; ProtocolError, which names it, if damaged."""
        headers: list[np.void] = []
        places: list[int] = []
        waveforms: list[Waveform] = []
        with path.open("rb") as file:
            try:
                read = reader(file)
                header = read_header(read)
                place = file.tell()
                for message in messages(read):
                    if isinstance(message, Acquisition):
                        headers.append(message.header)
                        places.append(place)
                    elif item := _raw(message):
                        waveforms.append(item)
                    place = file.tell()
            except ProtocolError as error:
                raise ProtocolError(f"{path}: {error}") from error
        return cls(
            path=path,
            header=header,
            subject=path.stem,
            _headers=np.array(headers, ACQUISITION_HEADER),
            _places=tuple(places),
            _waveforms=tuple(waveforms),
        )

    def headers(self) -> NDArray[np.void]:
        """Return all headers (lines,), ACQUISITION_HEADER records in file order."""
        return self._headers

    def lines(self, numbers: Ints | None = None) -> list[Acquisition]:
        """Read the lines of some numbers; all lines where none are given."""
        order = range(len(self._places)) if numbers is None else numbers.tolist()
        found = []
        with self.path.open("rb") as file:
            for number in order:
                file.seek(self._places[number])
                line = read_message(reader(file))
                assert isinstance(line, Acquisition)  # `of` found one there
                found.append(line)
        return found

    def waveforms(self) -> list[Waveform]:
        """Return all waveforms, in order."""
        return list(self._waveforms)
