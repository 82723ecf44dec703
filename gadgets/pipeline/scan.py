"""What a gadget may know and use of the scan that runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mnet.masks.line_plan import LinePlan

from ..mrd.geometry import Geometry
from .mask_first import MaskFirst
from .models import Models

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
    device: str = "cpu"
    mask_first: MaskFirst = field(default_factory=MaskFirst)  # one for all scans of a process
