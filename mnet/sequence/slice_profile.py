"""What a slice-selective pulse does across the slice: its flip angle from place to place.

The pulse is a sinc with a Hann window, cut into short hard pulses with the gradient between them,
and followed as a rotation (Pauly et al. 1991, doi:10.1109/42.75611). What turns about z before and
after it is the gradient's, and is balanced or refocused; the angle between is what signals need.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TIME_BANDWIDTH = 4.0  # lobes of the sinc: sharper edges need longer pulses
N_STEPS = 128  # hard pulses in one pulse: 32 a lobe
REACH = 1.0  # how far from the middle places are taken, in slice thicknesses
N_PLACES = 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceProfile:
    """Places of a slice by their weight, and the share of its flip angle that a pulse has there."""

    places: Floats  # (places,) in slice thicknesses from the middle
    weights: Floats  # (places,) sum up to a slice's thickness, 1, within the slice

    @classmethod
    def one_place(cls) -> "SliceProfile":
        """Return the profile of an ideal pulse, which a single place stands for."""
        return cls(places=np.zeros(1), weights=np.ones(1))

    @classmethod
    def symmetric(cls, n_places: int = N_PLACES) -> "SliceProfile":
        """Return places on one side of the slice, which stand for both."""
        places = (np.arange(n_places) + 0.5) * REACH / n_places
        return cls(places=places, weights=np.full(n_places, 2 * REACH / n_places))

    def flip(self, nominal_deg: float) -> Floats:
        """Return the flip angles (places,) in rad of a pulse of `nominal_deg`."""
        turn, off = _rotation(waveform(np.deg2rad(nominal_deg)), self.places)
        angles: Floats = 2 * np.arctan2(np.abs(off), np.abs(turn))
        return angles


def waveform(flip: float) -> Floats:
    """Return the flip angle in rad of every step of a pulse of `flip` rad."""
    time = (np.arange(N_STEPS) + 0.5) / N_STEPS - 0.5
    shape = np.sinc(TIME_BANDWIDTH * time) * np.cos(np.pi * time) ** 2
    steps: Floats = flip * shape / shape.sum()
    return steps


def _rotation(
    steps: Floats, places: Floats
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return the Cayley-Klein parameters (places,) of a pulse with its gradient."""
    half = np.exp(-1j * np.pi * TIME_BANDWIDTH * places / N_STEPS / 2)  # before and after each step
    turn, off = np.ones_like(half), np.zeros_like(half)
    for cos, sin in zip(np.cos(steps / 2), np.sin(steps / 2), strict=True):
        turn, off = half * turn, half.conj() * off
        turn, off = cos * turn - 1j * sin * off, cos * off - 1j * sin * turn
        turn, off = half * turn, half.conj() * off
    return turn, off
