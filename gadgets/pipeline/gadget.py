"""What a gadget is.

A gadget is a frozen dataclass whose fields are its XML properties. Calling it with a scan and a
stream of items gives a stream of items; its state is local to that call, what it does not know it
passes on, and what comes after its loop is the flush at the end of the stream. Checks and weights
happen in the call itself, not in the generator it returns, so that faults show at start-up.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..mrd.items import Item
from .scan import Scan


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
