"""One shot of a turbo spin echo or of a spoiled gradient echo, block by block.

A sequence of shots is a number of kinds of blocks, and a shot knows how long it takes before any
is drawn. Rules of the turbo spin echo (CPMG): between two refocusing pulses every gradient has
twice the area that it has between excitation and the first of them, and phase encoding is undone
after every echo. So an echo of stimulated paths falls upon every spin echo, and signals are those
of `mnet.sequence.turbo_spin_echo`.
"""

from collections.abc import Mapping
from typing import Protocol as Interface

import numpy as np

from mnet.sequence.echo_order import IDLE, Rows
from mnet.sequence.gradient_echo import SPOILING

from ..errors import ConfigError
from .limits import Limits
from .lobes import Lobe, strongest, up
from .pen import Pen, Pulse, Readout
from .protocol import Floats, Protocol

# Crushers across the slice, beside the slice's own gradient: what the refocusing pulses excite by
# themselves is left over where they are weak. They are as strong as the echo spacing leaves time.
CRUSHER_CYCLES = (2.0, 8.0)
# And along the readout, of its area: what is left over lies outside the samples.
READ_CRUSHER = 0.25
SPOILER_CYCLES = 4.0
_PULSE_US = 2560  # on the rasters of all platforms, and so is its half
_GRE_PULSE_US = 1600


class Drawer(Interface):
    """Draws shots of one kind."""

    @property
    def us(self) -> int:
        """Return how long a shot takes before it may wait."""

    def echo_us(self, echo: int) -> float:
        """Return when an echo, from 1, comes after the excitation."""

    def draw(self, pen: Pen, rows: Rows | None, offset_mm: float, labels: "Labels") -> None:
        """Draw a shot of rows (train,), of None a dummy."""


class Labels:
    """What a shot and its readouts are called; empty where nothing shall be."""

    def __init__(self, shot: Mapping[str, int], *, written: bool) -> None:
        self._shot, self._written = dict(shot), written

    @property
    def shot(self) -> dict[str, int]:
        """Return the labels of the shot's first block."""
        return self._shot if self._written else {}

    def line(self, row: int, echo: int) -> dict[str, int]:
        """Return the labels of a readout."""
        return {"LIN": row, "SEG": echo} if self._written else {}


class TurboSpinEcho:
    """A CPMG train; ConfigError where the echo spacing is too short."""

    def __init__(self, protocol: Protocol, limits: Limits) -> None:
        self._protocol, self._limits = protocol, limits
        thick = protocol.thickness_mm
        self._excite = Pulse(
            flip_deg=90, us=_PULSE_US, use="excitation", thickness_mm=thick, limits=limits
        )
        self._refocus = Pulse(
            flip_deg=protocol.flip_deg,
            us=_PULSE_US,
            use="refocusing",
            thickness_mm=thick,
            limits=limits,
        )
        self._read = Readout.of(protocol, limits)
        self._spoil = Lobe.for_area(SPOILER_CYCLES / (thick * 1e-3), limits)
        self._edge = protocol.matrix[1] // 2 * float(protocol.dk[1])
        self._crusher = self._crushers(CRUSHER_CYCLES[0])
        self._encode = Lobe.for_area(strongest([self._beside(self._edge)]), limits)
        self._half_us = self._half_spacing()
        self._encode = Lobe.within(self._pad_us, limits)
        self._crusher = self._crushers(self._cycles())
        self._prephase = Lobe.for_area(strongest([np.array(self._first)]), limits)

    def _crushers(self, cycles: float) -> tuple[float, float]:
        """Return what is crushed along readout and slice, in cycles/m."""
        return READ_CRUSHER * self._read.area, cycles / (self._protocol.thickness_mm * 1e-3)

    def _beside(self, ky: float) -> Floats:
        """Return the area of the lobes beside a readout."""
        return np.array([self._crusher[0], ky, self._crusher[1]])

    def _cycles(self) -> float:
        """Return the strongest crushers for which lobes at the edge of k-space leave room.

        Also before the first refocusing pulse, whose time is what the excitation leaves.
        """
        largest = self._encode.largest(self._limits)
        room = largest**2 - self._edge**2 - self._crusher[0] ** 2
        low, high = CRUSHER_CYCLES
        thick = self._protocol.thickness_mm * 1e-3
        before = Lobe.within(self._first_us, self._limits).largest(self._limits)
        along = self._read.area / 2 + self._crusher[0]
        first = np.sqrt(max(before**2 - along**2, 0)) + self._excite.half_area
        return float(np.clip(min(np.sqrt(max(room, 0)), first) * thick, low, high))

    @property
    def _first(self) -> tuple[float, float, float]:
        """Return the area before the first refocusing pulse: half of that between two of them."""
        # whatever the excitation has left behind its centre is part of it
        along, across = self._crusher
        return self._read.area / 2 + along, 0.0, across - self._excite.half_area

    @property
    def _first_us(self) -> int:
        return self._half_us - self._excite.block_us // 2 - self._refocus.block_us // 2

    def _half_spacing(self) -> int:
        """Return half the echo spacing."""
        raster = self._limits.block_raster_us
        after = self._refocus.block_us // 2 + self._encode.us + self._read.block_us // 2
        first = Lobe.for_area(strongest([np.array(self._first)]), self._limits)
        before = self._excite.block_us // 2 + first.us + self._refocus.block_us // 2
        shortest = up(max(after, before), raster)
        if self._protocol.echo_ms is None:
            return shortest
        asked = round(self._protocol.echo_ms * 1e3 / 2)
        if asked < shortest:
            raise ConfigError(
                f"an echo spacing of {self._protocol.echo_ms:g} ms is too short for these limits: "
                f"the shortest is {2e-3 * shortest:g} ms; a higher bandwidth or fewer samples "
                "shorten it"
            )
        if asked % raster or abs(asked - self._protocol.echo_ms * 500) > 1e-6:
            raise ConfigError(
                f"an echo spacing of {self._protocol.echo_ms:g} ms is not on the raster: expected "
                f"a multiple of {2e-3 * raster:g} ms"
            )
        return asked

    @property
    def us(self) -> int:
        """Return how long a shot takes."""
        last = self._read.block_us // 2 + self._pad_us + self._spoil_us
        return self._excite.block_us // 2 + 2 * self._protocol.train * self._half_us + last

    @property
    def _pad_us(self) -> int:
        """Return how long the lobes beside a readout take, with what is left of the time."""
        return self._half_us - self._refocus.block_us // 2 - self._read.block_us // 2

    @property
    def _spoil_us(self) -> int:
        return up(self._spoil.us, self._limits.block_raster_us)

    def echo_us(self, echo: int) -> float:
        """Return when an echo, from 1, comes after the excitation."""
        return 2.0 * self._half_us * echo

    def draw(self, pen: Pen, rows: Rows | None, offset_mm: float, labels: Labels) -> None:
        """Draw a shot; phases are those of CPMG, the excitation's ahead by a quarter turn."""
        dk, middle = float(self._protocol.dk[1]), self._protocol.matrix[1] // 2
        pen.pulse(self._excite, np.pi / 2, offset_mm, labels.shot)
        pen.lobe(self._prephase, self._first, self._first_us)
        for echo in range(self._protocol.train):
            row = IDLE if rows is None else int(rows[echo])
            ky = 0.0 if row == IDLE else (row - middle) * dk
            pen.pulse(self._refocus, 0.0, offset_mm, {})
            pen.lobe(self._encode, self._beside(ky), self._pad_us)
            phase = None if row == IDLE else np.pi / 2
            pen.readout(self._read, phase, labels.line(row, echo))
            pen.lobe(self._encode, self._beside(-ky), self._pad_us)
        pen.lobe(
            self._spoil,
            (0.0, 0.0, SPOILER_CYCLES / self._protocol.thickness_mm * 1e3),
            self._spoil_us,
        )


class SpoiledGradientEcho:
    """One pulse and its line; ConfigError where the echo time is too short."""

    def __init__(self, protocol: Protocol, limits: Limits) -> None:
        self._protocol, self._limits = protocol, limits
        thick = protocol.thickness_mm
        self._excite = Pulse(
            flip_deg=protocol.flip_deg,
            us=_GRE_PULSE_US,
            use="excitation",
            thickness_mm=thick,
            limits=limits,
        )
        self._read = Readout.of(protocol, limits)
        edge = protocol.matrix[1] // 2 * float(protocol.dk[1])
        self._spoil = SPOILER_CYCLES / (thick * 1e-3)
        first = np.array([self._read.area / 2, edge, self._excite.half_area])
        last = np.array([self._read.area / 2, edge, self._spoil])
        self._encode = Lobe.for_area(strongest([first]), limits)
        self._rewind = Lobe.for_area(strongest([last]), limits)
        self._first_us = self._before_readout()
        self._n: dict[float, int] = {}  # pulses of every slice: their phase grows

    def _before_readout(self) -> int:
        raster = self._limits.block_raster_us
        fixed = self._excite.block_us // 2 + self._read.block_us // 2
        shortest = fixed + up(self._encode.us, raster)
        if self._protocol.echo_ms is None:
            return shortest - fixed
        asked = round(self._protocol.echo_ms * 1e3)
        if asked < shortest:
            raise ConfigError(
                f"an echo time of {self._protocol.echo_ms:g} ms is too short for these limits: the "
                f"shortest is {1e-3 * shortest:g} ms; a higher bandwidth or fewer samples shorten "
                "it"
            )
        if (asked - fixed) % raster or abs(asked - self._protocol.echo_ms * 1e3) > 1e-6:
            nearest = fixed + up(asked - fixed, raster)
            raise ConfigError(
                f"an echo time of {self._protocol.echo_ms:g} ms is not on the raster: the next is "
                f"{1e-3 * nearest:g} ms"
            )
        return asked - fixed

    @property
    def us(self) -> int:
        """Return how long a pulse and its line take."""
        return (
            self._excite.block_us
            + self._first_us
            + self._read.block_us
            + up(self._rewind.us, self._limits.block_raster_us)
        )

    def echo_us(self, echo: int) -> float:
        """Return when the echo comes after the excitation."""
        return float(self._excite.block_us // 2 + self._first_us + self._read.block_us // 2)

    def draw(self, pen: Pen, rows: Rows | None, offset_mm: float, labels: Labels) -> None:
        """Draw a pulse and its line; the receiver follows the growing phase of the pulse."""
        n = self._n[offset_mm] = self._n.get(offset_mm, -1) + 1
        phase = float(SPOILING) * (n * (n + 1) // 2)
        row = IDLE if rows is None else int(rows[0])
        ky = (
            0.0
            if row == IDLE
            else (row - self._protocol.matrix[1] // 2) * float(self._protocol.dk[1])
        )
        half = self._read.area / 2
        pen.pulse(self._excite, phase, offset_mm, labels.shot)
        pen.lobe(self._encode, (-half, ky, -self._excite.half_area), self._first_us)
        pen.readout(self._read, None if row == IDLE else phase, labels.line(row, 0))
        pen.lobe(
            self._rewind,
            (half, -ky, self._spoil),
            up(self._rewind.us, self._limits.block_raster_us),
        )


def drawer(protocol: Protocol, limits: Limits) -> Drawer:
    """Return what draws the shots of a protocol."""
    return (TurboSpinEcho if protocol.kind == "tse" else SpoiledGradientEcho)(protocol, limits)
