"""Spoiled gradient echo: the signal of every pulse, on the way to the steady state and in it.

RF spoiling is modelled as it is: the pulses' phase grows quadratically, by 117 degrees, and the
states that earlier pulses left behind are followed (Zur et al. 1991,
doi:10.1002/mrm.1910210210), so that short TRs are as right as long ones. T2' and diffusion are
not modelled: CSF, which would diffuse, takes longer to its steady state here than in a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import epg
from .slice_profile import SliceProfile
from .tissue import Tissue, columns

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]

SPOILING = np.deg2rad(117.0)
# Higher orders are lost. It takes 150 pulses until one comes about and as many until it is back, by
# when all but CSF has forgotten it, and CSF diffuses.
N_ORDERS = 150
N_PLACES = 8  # in the slice: with 24 signals differ by less than 0.1 %


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoiledGradientEcho:
    """The protocol; ValueError where the echo does not lie within TR."""

    tr_ms: float = 10.0  # of a slice, from pulse to pulse
    echo_ms: float = 4.0
    flip_deg: float = 15.0
    profile: SliceProfile = field(default_factory=lambda: SliceProfile.symmetric(N_PLACES))
    train: int = 1  # lines of a shot

    def __post_init__(self) -> None:
        if not 0 <= self.echo_ms < self.tr_ms:
            raise ValueError(f"the echo at {self.echo_ms:g} ms is not within TR, {self.tr_ms:g} ms")
        if self.train != 1:
            raise ValueError(f"a gradient echo has trains of 1, got {self.train}")

    @property
    def shot_ms(self) -> float:
        """From a pulse to the end of its TR: nothing is left of it to wait in."""
        return self.tr_ms

    def begin(self, tissues: Sequence[Tissue]) -> "SpoiledGradientEchoSlice":
        """Begin a slice at rest."""
        return SpoiledGradientEchoSlice(self, tissues)

    def steady(self, tissues: Sequence[Tissue]) -> Complex:
        """Return the signals (tissues, 1) of a pulse after very many."""
        slice_ = self.begin(tissues)
        slice_.settle()
        return slice_.shot()


class SpoiledGradientEchoSlice:
    """The states of one slice's tissues, from pulse to pulse."""

    def __init__(self, protocol: SpoiledGradientEcho, tissues: Sequence[Tissue]) -> None:
        self.protocol = protocol
        density, self._t1, self._t2 = columns(tissues)
        flips = protocol.profile.flip(protocol.flip_deg)
        self._shape = (self._t1.size, flips.size)
        self._flips = np.broadcast_to(flips, self._shape)
        te2 = np.exp(-protocol.echo_ms / self._t2)
        self._weights = protocol.profile.weights * (density * te2)[:, None]
        self._factors = self._relaxation(protocol.tr_ms)
        self._states = epg.at_rest(np.ones(self._shape), N_ORDERS)
        self._n = 0

    def shot(self) -> Complex:
        """Play a pulse and its TR; return the signals (tissues, 1), phases from the pulse's."""
        phase = SPOILING * self._n * (self._n + 1) / 2 % (2 * np.pi)
        self._n += 1
        states = epg.pulse(self._states, epg.rotation(self._flips, phase + np.pi / 2))
        # the receiver follows the phase of the pulse
        signals: Complex = (states[0, ..., 0] * np.exp(-1j * phase) * self._weights).sum(1)
        self._states = epg.dephase(epg.relax(states, *self._factors))
        return signals[:, None]

    def rest(self, ms: float) -> None:
        """Let a time pass without pulses."""
        self._states = epg.relax(self._states, *self._relaxation(ms))

    def settle(self) -> None:
        """Come to the steady state: five times the longest T1 in pulses, 0.7 % of it from there."""
        for _ in range(int(5 * self._t1.max() / self.protocol.tr_ms)):
            self.shot()

    def _relaxation(self, ms: float) -> tuple[Floats, Floats]:
        e1, e2 = (np.exp(-ms / t)[:, None] for t in (self._t1, self._t2))
        return np.broadcast_to(e1, self._shape), np.broadcast_to(e2, self._shape)
