"""Gadgets one behind the other, as one stream; its front here, its heavy end elsewhere."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..mrd.items import Burst, Item
from .gadget import Gadget
from .intake import intake
from .scan import Scan

Pipeline = tuple[Gadget, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A pipeline and what it has readers and writers for."""

    gadgets: Pipeline
    reads: frozenset[type]
    writes: frozenset[type]
    own: Mapping[str, str] = field(default_factory=dict)  # a site's: `file.Class` to sha256


def split(gadgets: Pipeline) -> tuple[Pipeline, Pipeline]:
    """Split a pipeline into the part of the front and the part of the worker."""
    first = next((i for i, gadget in enumerate(gadgets) if gadget.heavy), len(gadgets))
    return gadgets[:first], gadgets[first:]


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
