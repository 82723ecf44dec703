"""Gadgets one behind the other, as one stream."""

from collections.abc import Iterable, Iterator

from ..mrd.items import Burst, Item
from .gadget import Gadget
from .intake import intake
from .scan import Scan


def chain(gadgets: Iterable[Gadget], scan: Scan, items: Iterable[Item]) -> Iterator[Item]:
    """Connect gadgets to one stream; nothing runs until the result is consumed."""
    stream: Iterator[Item] = iter(items)
    for gadget in gadgets:
        stream = gadget(scan, stream if gadget.takes_bursts else apart(stream))
    return stream


def apart(items: Iterable[Item]) -> Iterator[Item]:
    """Take bursts apart into their lines."""
    for item in items:
        if isinstance(item, Burst):
            yield from item.lines()
        else:
            yield item


def run(gadgets: Iterable[Gadget], scan: Scan, items: Iterable[Item]) -> list[Item]:
    """Run a whole pipeline in this process, for tests and notebooks."""
    return list(chain(gadgets, scan, intake(scan, items)))
