"""What a gadget may know and use of the scan that runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..mrd.geometry import Geometry
from .models import Models

if TYPE_CHECKING:
    from ..files.noise_store import NoiseStore
    from ..files.scan_record import Record
    from ..mask.recon_port import ReconLink


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
