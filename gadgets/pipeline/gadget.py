"""What a gadget is, and the plain loop that runs a chain of them.

A gadget is a frozen dataclass whose fields are its XML properties. Calling it with a scan and a
stream of items gives a stream of items; its state is local to that call, what it does not know it
passes on, and what comes after its loop is the flush at the end of the stream. Checks and weights
happen in the call itself, not in the generator it returns, so that faults show at start-up.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import GadgetError
from ..mrd.geometry import Geometry
from ..mrd.items import Acquisition, Burst, Complex, Item

if TYPE_CHECKING:
    from torch import nn

    from ..files.noise_store import NoiseStore
    from ..files.scan_record import Record
    from ..mask.ports import ReconLink


class Models:
    """Deployed weights by name, loaded once per process and device."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._loaded: dict[str, tuple[nn.Module, dict[str, Any]]] = {}

    def get(self, name: str) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model, in evaluation mode on the device, and its card."""
        if name not in self._loaded:
            from mnet.weight_files import (
                load_weights,  # torch takes seconds: not before it is needed
            )

            model, card = load_weights(name)
            self._loaded[name] = model.to(self.device), card
        return self._loaded[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The only door from a gadget to the world: one scan's header and services."""

    geometry: Geometry
    models: Models = field(default_factory=Models)
    masks: ReconLink | None = None  # the mask channel, None where nobody listens
    record: Record | None = None
    noise: NoiseStore | None = None  # earlier noise measurements, None where none are kept
    counts: Counter[str] = field(default_factory=Counter)  # what was dropped or doubled, by reason
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Gadget(ABC):
    """Base of all gadgets."""

    heavy: ClassVar[bool] = False  # the chain moves to the worker process at the first heavy gadget
    takes_bursts: ClassVar[bool] = False  # lines that came together as one item

    @property
    def in_band(self) -> bool:
        """Whether its masks shall leave on the MRD connection instead of the mask channel."""
        return False

    @abstractmethod
    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Turn a stream into a stream."""

    def warm(self, scan: Scan) -> None:  # noqa: B027
        """Load what the first item would otherwise wait for."""


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


def intake(scan: Scan, items: Iterable[Item]) -> Iterator[Item]:
    """Check every acquisition before a gadget sees it.

    A coil count that differs from the header ends the scan; a line with a NaN is dropped and
    counted, for it would spread over the whole image.
    """
    expected = scan.geometry.n_coils
    for item in items:
        if isinstance(item, Acquisition | Burst):
            n_coils = item.data.shape[-2]
            expected = n_coils if expected is None else expected
            if n_coils != expected:
                raise GadgetError(
                    f"acquisition {int(item.header['scan_counter'])} has {n_coils} coils, "
                    f"expected {expected} (receiverChannels of the header, or the first line)"
                )
            if not _finite(item.data):
                if isinstance(item, Burst):
                    yield from intake(scan, item.lines())
                else:
                    scan.counts["lines with NaN"] += 1
                continue
        yield item


def _finite(data: Complex) -> bool:
    """Say whether all samples are; their power tells it nearly always, at a fifth of the cost."""
    return math.isfinite(np.vdot(data, data).real) or bool(np.isfinite(data).all())
