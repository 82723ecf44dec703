"""Strata of scans: kinds for which a fixed mask is searched and a sampler is judged by itself.

What a mask has to do follows from the channels first of all: one channel unfolds nothing, a few
unfold a little, many nearly all. Then from the acceleration, and from how many lines are taken for
calibration.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Channels = Literal["single", "few", "many"]
FEW = 2  # channels and more
MANY = 8


def channels(n_coils: int) -> Channels:
    """Return which kind of coil `n_coils` channels are; ValueError for none."""
    if n_coils < 1:
        raise ValueError(f"{n_coils} channels, expected 1 or more")
    return "single" if n_coils < FEW else "few" if n_coils < MANY else "many"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Stratum:
    """A kind of scans; an empty `channels` is any number of them."""

    acceleration: float
    channels: Channels | Literal[""] = ""
    n_calibration: int = 0  # lines; 0 where they are about a third of all

    def __post_init__(self) -> None:
        """Refuse unknown channels."""
        if self.channels and self.channels not in get_args(Channels):
            raise ValueError(f"channels {self.channels!r}, expected one of {get_args(Channels)}")

    @property
    def name(self) -> str:
        """What logs, cards and files call it."""
        narrow = f", {self.n_calibration} calibration lines" if self.n_calibration else ""
        return f"{self.channels or 'any'} channels, {self.acceleration:g}x{narrow}"

    def holds(self, n_coils: int, acceleration: float) -> bool:
        """Say whether a scan is of this kind, whatever its calibration."""
        same = not self.channels or channels(n_coils) == self.channels
        return same and acceleration == self.acceleration
