"""Which encoding space of a stream is the image's, where a header lists several.

Images are made of the first one. Some scans list that of their reference lines first; the first
imaging line tells, and what comes before it are reference lines, noise and the like.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from ..errors import HeaderError
from ..mrd.geometry import parse
from ..mrd.header_layouts import flags_of, is_imaging
from ..mrd.header_values import moved_first, with_encoding_first
from ..mrd.items import Acquisition, Burst

Message = TypeVar("Message")
_HELD = 8192  # lines at most; a scan with more reference lines than these is taken as it is


def imaging_space_first(
    header: bytes, messages: Iterable[Message]
) -> tuple[bytes, Iterator[Message]]:
    """Return a header whose first encoding space is the image's, and messages that go with it.

    Where the header lists one space alone, nothing is read ahead.
    """
    rest = iter(messages)
    try:
        n_spaces = len(parse(header).findall("encoding"))
    except HeaderError:
        n_spaces = 0  # whoever reads it says what is wrong with it
    held: list[Message] = []
    for message in rest if n_spaces > 1 else ():
        held.append(message)
        if len(held) == _HELD:
            break
        if isinstance(message, Acquisition | Burst) and is_imaging(flags_of(message.header)):
            space = int(message.header["encoding_space_ref"])
            if 0 < space < n_spaces:
                moved = (_moved(each, space) for each in chain(held, rest))
                return with_encoding_first(header, space), moved
            break
    return header, chain(held, rest)


def _moved(message: Message, space: int) -> Message:
    """Return a line with the number that its encoding space has now."""
    if isinstance(message, Acquisition):
        header = message.header.copy()
        header["encoding_space_ref"] = moved_first(header["encoding_space_ref"], space)
        return replace(message, header=header)
    if isinstance(message, Burst):
        headers = message.headers.copy()
        headers["encoding_space_ref"] = moved_first(headers["encoding_space_ref"], space)
        return replace(message, headers=headers)
    return message
