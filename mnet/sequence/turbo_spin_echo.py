"""Turbo spin echo: every echo of every shot, and how a slice comes to its steady state.

A shot excites by 90 degrees and refocuses, under CPMG, `train` times. Echoes are averaged over the
slice profile. What is left along z recovers until the next shot, at every place by itself; across
is nothing left, for a spoiler follows the train. Off-resonance, diffusion and J-coupling are not
modelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import epg
from .slice_profile import SliceProfile
from .tissue import Tissue, columns

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurboSpinEcho:
    """The protocol; ValueError where a train does not fit into a TR."""

    train: int
    echo_spacing_ms: float = 9.6
    tr_ms: float = 3000.0  # of a slice, from shot to shot
    refocusing_deg: float = 180.0
    profile: SliceProfile = field(default_factory=SliceProfile.symmetric)

    def __post_init__(self) -> None:
        if not 0 < self.shot_ms < self.tr_ms:
            raise ValueError(
                f"{self.train} echoes of {self.echo_spacing_ms:g} ms take {self.shot_ms:g} ms, and "
                f"TR is {self.tr_ms:g} ms"
            )

    @property
    def shot_ms(self) -> float:
        """From excitation to the end of a train."""
        return self.train * self.echo_spacing_ms

    def begin(self, tissues: Sequence[Tissue]) -> "TurboSpinEchoSlice":
        """Begin a slice at rest."""
        return TurboSpinEchoSlice(self, tissues)

    def steady(self, tissues: Sequence[Tissue]) -> Floats:
        """Return the signals (tissues, echoes) of a shot after very many."""
        slice_ = self.begin(tissues)
        slice_.settle()
        return slice_.shot()


class TurboSpinEchoSlice:
    """Longitudinal magnetization of one slice's tissues, from shot to shot."""

    def __init__(self, protocol: TurboSpinEcho, tissues: Sequence[Tissue]) -> None:
        self.protocol = protocol
        density, self._t1, t2 = columns(tissues)
        # the train is linear in the magnetization before it: one run with and one without suffices
        full, left = echo_train(self._t1, t2, protocol, mz=1.0)
        _, regrown = echo_train(self._t1, t2, protocol, mz=0.0)
        weights = protocol.profile.weights
        self._echoes = full * weights[:, None] * density[:, None, None]
        self._kept, self._regrown = left - regrown, regrown
        self._rest = np.exp(-(protocol.tr_ms - protocol.shot_ms) / self._t1)[:, None]
        self.mz = np.ones_like(left)  # (tissues, places) before the next shot

    def shot(self) -> Floats:
        """Play a shot and the rest of its TR; return the signals (tissues, echoes)."""
        signals: Floats = (self._echoes * self.mz[..., None]).sum(1)
        after = self._kept * self.mz + self._regrown
        self.mz = 1 - (1 - after) * self._rest
        return signals

    def rest(self, ms: float) -> None:
        """Let a time pass without pulses, on top of the TR."""
        self.mz = 1 - (1 - self.mz) * np.exp(-ms / self._t1)[:, None]

    def settle(self) -> None:
        """Come to the steady state."""
        recovered = 1 - (1 - self._regrown) * self._rest
        self.mz = recovered / (1 - self._kept * self._rest)


def echo_train(t1: Floats, t2: Floats, protocol: TurboSpinEcho, mz: float) -> tuple[Floats, Floats]:
    """Return the echoes (tissues, places, echoes) of one train, and mz (tissues, places) after it.

    T1 and T2 (tissues,) are in ms, `mz` is the magnetization before the train. A gradient turns by
    one cycle in every half of an echo spacing, so that of all paths only echoes are seen.
    """
    profile, half_ms = protocol.profile, protocol.echo_spacing_ms / 2
    shape = (t1.size, profile.places.size)
    e1, e2 = (np.broadcast_to(np.exp(-half_ms / t)[:, None], shape) for t in (t1, t2))
    excitation = epg.rotation(np.broadcast_to(profile.flip(90.0), shape), np.pi / 2)
    refocusing = epg.rotation(np.broadcast_to(profile.flip(protocol.refocusing_deg), shape), 0.0)
    states = epg.pulse(epg.at_rest(np.full(shape, mz), 2 * protocol.train + 2), excitation)
    echoes = np.empty((*shape, protocol.train))
    for echo in range(protocol.train):
        states = epg.pulse(epg.dephase(epg.relax(states, e1, e2)), refocusing)
        states = epg.dephase(epg.relax(states, e1, e2))
        echoes[..., echo] = states[0, ..., 0].real
    return echoes, states[2, ..., 0].real
