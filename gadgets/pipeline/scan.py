"""What a gadget may know and use of the scan that runs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mnet.masks.line_plan import LinePlan

from ..mrd.geometry import Geometry
from ..mrd.items import Burst, Item
from .models import Models
from .turn import Slack, Turn

if TYPE_CHECKING:
    from ..files.noise_store import NoiseStore
    from ..mask.recon_end import ReconLink


class KeepsNoise(Protocol):
    """What gadgets need of a scan's record."""

    def noise(self, text: str) -> None:
        """Keep the noise of an earlier measurement that this scan was whitened with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The only door from a gadget to the world: one scan's header and services."""

    geometry: Geometry
    models: Models = field(default_factory=Models)
    masks: ReconLink | None = None  # the mask channel, None where nobody listens
    record: KeepsNoise | None = None  # None where none is kept
    noise: NoiseStore | None = None  # earlier noise measurements, None where none are kept
    counts: Counter[str] = field(default_factory=Counter)  # what was dropped or doubled, by reason
    rehearsed: set[LinePlan] = field(default_factory=set)  # plans that a mask was made for
    slack: Slack = field(default_factory=Slack)  # which lines may wait
    turn: Turn = field(default_factory=Turn)  # one for all scans of a process
    device: str = "cpu"

    def arrived(self, item: Item) -> bool:
        """Note when an item came; say whether a mask may be due once it is handled."""
        self.slack.read_at = time.monotonic()
        n_lines = len(item.headers) if isinstance(item, Burst) else 1
        return n_lines >= self.slack.to_mask
