"""Lines computed from tissue maps: what a sequence would have measured, echo by echo.

The k-space of every tissue is computed once; a line is their sum, weighted with what EPG says of
its echo, its shot and its slice, plus the line's noise. The noise is drawn once per line with the
covariance of the file's noise readouts, so that two orders of the same lines differ in their signal
alone, and the signal is scaled to the energy of the file's own lines.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mnet.physics.fourier import fourier
from mnet.physics.prewhiten import noise_covariance
from mnet.sequence.echo_order import IDLE, Rows
from mnet.sequence.gradient_echo import SpoiledGradientEcho
from mnet.sequence.tissue import Tissue
from mnet.sequence.turbo_spin_echo import TurboSpinEcho

from ..errors import ConfigError
from ..files.tissue_maps import TissueMaps
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import Flag, is_imaging
from ..mrd.items import Acquisition, Bool
from .lines import SliceKey

Complex = NDArray[np.complex64]
Signals = NDArray[Any]  # (tissues, echoes), real or complex


class Magnetization(Protocol):
    """The state of a slice between shots."""

    def shot(self) -> Signals:
        """Play a shot and its TR; return the signals (tissues, echoes)."""

    def rest(self, ms: float) -> None:
        """Let a time pass without pulses."""

    def settle(self) -> None:
        """Come to the steady state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """The sequence whose signal is computed."""

    kind: Literal["tse", "gre"]
    tr_ms: float | None = None  # of a slice; None: 3000 ms, for gre 10 ms
    echo_spacing_ms: float = 9.6  # tse
    refocusing_deg: float = 180.0  # tse
    flip_deg: float = 15.0  # gre
    silent_wait: bool = False  # does not pulse while it waits for a mask
    gain_correction: bool = False  # divides every echo by its steady signal at k = 0

    def protocol(self, train: int) -> TurboSpinEcho | SpoiledGradientEcho:
        """Return the protocol; ConfigError for one that cannot be."""
        try:
            if self.kind == "gre":
                return SpoiledGradientEcho(
                    tr_ms=self.tr_ms or 10.0, flip_deg=self.flip_deg, train=train
                )
            return TurboSpinEcho(
                train=train,
                echo_spacing_ms=self.echo_spacing_ms,
                tr_ms=self.tr_ms or 3000.0,
                refocusing_deg=self.refocusing_deg,
            )
        except ValueError as error:
            raise ConfigError(f"--physics {self.kind}: {error}") from error


class SimulatedLines:
    """All lines of a scan, as a sequence would measure them.

    Raises ConfigError where the maps do not fit the file, or it has more than one line per row.
    """

    def __init__(
        self,
        acquisitions: Sequence[Acquisition],
        geometry: Geometry,
        maps: TissueMaps,
        physics: Physics,
        train: int,
    ) -> None:
        self.noise = [a for a in acquisitions if int(a.header["flags"]) & Flag.NOISE]
        self.physics, self.protocol = physics, physics.protocol(train)
        self.tissues: tuple[Tissue, ...] = maps.tissues
        self._geometry = geometry
        self._lines = _by_place(acquisitions, geometry)
        self._fit(maps)
        self._kspace = [_hybrid(*each) for each in zip(maps.fractions, maps.coils, strict=True)]
        self._mix = _mix(self.noise)
        self._settled = self.protocol.begin(self.tissues)
        self._settled.settle()
        self.steady = copy.deepcopy(self._settled).shot()  # (tissues, echoes)
        self._scale = 1.0
        self._scale = self._energy_of_file() / self._energy()
        self.gains = self._gains()

    @property
    def acquirable(self) -> Bool:
        """The rows (ky,) that the file holds of every slice."""
        found = np.zeros((len(self._kspace), self._geometry.n_ky), dtype=bool)
        for number, row in self._lines:
            found[number, row] = True
        rows: Bool = np.all(found, axis=0)
        return rows

    def of(self, key: SliceKey) -> "SimulatedSlice":
        """Begin a slice at rest."""
        return self.slice(key[0], corrected=self.physics.gain_correction)

    def slice(
        self, number: int, *, settled: bool = False, corrected: bool = False
    ) -> "SimulatedSlice":
        """Begin a slice at rest or in its steady state, with or without gain correction."""
        state = copy.deepcopy(self._settled) if settled else self.protocol.begin(self.tissues)
        gains = self.gains if corrected else np.ones_like(self.gains)
        return SimulatedSlice(self, number, state, gains)

    def reference(self, echo: int) -> list[Acquisition]:
        """Return the noise and all lines of the file, each measured at one echo in steady state."""
        amplitudes = self.steady[:, echo - 1]
        return [*self.noise, *(self.line(*place, amplitudes, 1.0) for place in self._lines)]

    def line(self, number: int, row: int, amplitudes: Signals, gain: float) -> Acquisition:
        """Return the line of a slice and row with the tissues' amplitudes (tissues,)."""
        template = self._lines[number, row]
        x = np.tensordot(amplitudes.astype(np.complex64), self._kspace[number][row], 1)
        samples = template.data.shape[-1]
        before = samples // 2 - x.shape[-1] // 2
        padded = np.pad(x, ((0, 0), (before, samples - x.shape[-1] - before)))
        signal = fourier(torch.from_numpy(padded), dim=-1).numpy() * np.float32(self._scale)
        white = np.random.default_rng([number, row]).standard_normal((*signal.shape, 2))
        noise = self._mix @ (white @ np.array([1, 1j]) / np.sqrt(2))
        return replace(template, data=((signal + noise) * gain).astype(np.complex64))

    def _energy_of_file(self) -> float:
        """Return the norm of the file's lines, less that of their noise."""
        variance = float(np.linalg.norm(self._mix) ** 2)  # of all coils together
        energies = (
            float(np.vdot(a.data, a.data).real) - variance * a.data.shape[-1]
            for a in self._lines.values()
        )
        return math.sqrt(max(sum(energies), 0.0))

    def _energy(self) -> float:
        """Return the norm of all lines at the middle echo in steady state, without noise."""
        steady = self.steady[:, self.protocol.train // 2].astype(np.complex64)
        total = 0.0
        for kspace in self._kspace:
            for row in np.flatnonzero(self.acquirable):
                total += float(np.linalg.norm(np.tensordot(steady, kspace[row], 1)) ** 2)
        return math.sqrt(total)

    def _gains(self) -> NDArray[np.float64]:
        """Return the factors (echoes,) of a shot without phase encoding in steady state.

        The middle echo is the one that the others are brought to.
        """
        row = self._geometry.n_ky // 2
        centre = np.stack([kspace[row] for kspace in self._kspace])  # (slices, tissues, coils, x)
        signals = np.einsum("te,stcx->escx", self.steady.astype(np.complex64), centre)
        strength = np.linalg.norm(signals.reshape(len(signals), -1), axis=1).astype(float)
        gains: NDArray[np.float64] = strength[self.protocol.train // 2] / strength
        return gains

    def _fit(self, maps: TissueMaps) -> None:
        wanted = (self._geometry.n_slices, self._geometry.n_x, self._geometry.n_ky)
        got = (len(maps.fractions), *maps.fractions.shape[2:])
        if wanted != got:
            raise ConfigError(f"tissue maps have slices, x and ky of {got}, the scan of {wanted}")


class SimulatedSlice:
    """One slice: what it does between shots, and the lines of a shot."""

    def __init__(
        self,
        lines: SimulatedLines,
        number: int,
        state: Magnetization,
        gains: NDArray[np.float64],
    ) -> None:
        self._lines, self._number, self._state, self._gains = lines, number, state, gains

    def dummy(self) -> None:
        """Play a shot without acquiring."""
        self._state.shot()

    def wait(self, ms: float) -> None:
        """Wait in whole TRs, pulsing or silent; what is left of a shot's TR costs nothing."""
        protocol = self._lines.protocol
        left = ms - (protocol.tr_ms - protocol.shot_ms)
        n = max(0, math.ceil(left / protocol.tr_ms))
        if self._lines.physics.silent_wait:
            self._state.rest(n * protocol.tr_ms)
            return
        for _ in range(n):
            self._state.shot()

    def shot(self, rows: Rows) -> list[Acquisition]:
        """Play a shot; return the lines of its rows (train,), IDLE left out."""
        signals = self._state.shot()
        return [
            self._lines.line(self._number, int(row), signals[:, echo], self._gains[echo])
            for echo, row in enumerate(rows)
            if row != IDLE
        ]


def _by_place(
    acquisitions: Sequence[Acquisition], geometry: Geometry
) -> dict[tuple[int, int], Acquisition]:
    """Return the imaging lines by slice and row."""
    found: dict[tuple[int, int], Acquisition] = {}
    for line in acquisitions:
        if is_imaging(int(line.header["flags"])):
            row = geometry.row(line.header["kspace_encode_step_1"])
            place = int(line.header["slice"]), row
            if place in found:
                raise ConfigError(
                    f"slice {place[0]} has more than one line of row {row}: --physics takes files "
                    "of one repetition, contrast and average"
                )
            found[place] = line
    return found


def _hybrid(fractions: NDArray[np.float32], coils: Complex) -> Complex:
    """Return the lines (ky, tissues, coils, x) of one slice, in image space along x."""
    images = torch.from_numpy(fractions[:, None] * coils[None])
    lines: Complex = fourier(images, dim=-1).permute(3, 0, 1, 2).contiguous().numpy()
    return lines


def _mix(noise: Sequence[Acquisition]) -> NDArray[np.complex128]:
    """Return the factor (coils, coils) of the noise readouts' covariance."""
    if not noise:
        raise ConfigError("the file has no noise readouts, from which --physics draws its noise")
    samples = torch.from_numpy(np.concatenate([line.data for line in noise], axis=1))
    factor: NDArray[np.complex128] = np.linalg.cholesky(noise_covariance(samples).numpy())
    return factor
