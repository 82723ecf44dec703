"""Draws blocks into a Pulseq sequence: a pulse in its slice, a lobe, a readout, a wait.

Times are whole microseconds until they are handed over, so that nothing drifts off a raster.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnet.sequence.slice_profile import TIME_BANDWIDTH

from .limits import Limits
from .lobes import Lobe, drawn, up
from .protocol import Floats, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """A slice-selective pulse in the middle of its block: a sinc with a Hann window.

    It is the pulse that `mnet.sequence.slice_profile` simulates.
    """

    flip_deg: float
    us: int
    use: str
    thickness_mm: float
    limits: Limits

    @property
    def amplitude(self) -> float:
        """Return the gradient of the slice in Hz/m."""
        return TIME_BANDWIDTH / (self.us * 1e-6) / (self.thickness_mm * 1e-3)

    @property
    def lobe(self) -> Lobe:
        """Return the trapezoid of that gradient."""
        return Lobe.for_flat(self.amplitude, self.us, self.limits)

    @property
    def block_us(self) -> int:
        """Return how long its block takes."""
        side = max(self.lobe.rise_us, self.limits.rf_dead_us, self.limits.rf_ringdown_us)
        return self.us + 2 * up(side, self.limits.block_raster_us)

    @property
    def half_area(self) -> float:
        """Return what the gradient does after the pulse's centre, in cycles/m."""
        return self.lobe.area(self.amplitude) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """Samples on the flat top of a lobe, that of k = 0 in the middle of the block.

    Samples lie in the middle of their dwell time. The middle one is number n // 2, so the readout
    begins half a dwell time earlier than the lobe's middle would have it.
    """

    n: int
    dwell_us: int
    amplitude: float  # Hz/m
    limits: Limits

    @classmethod
    def of(cls, protocol: Protocol, limits: Limits) -> "Readout":
        """Choose the dwell time nearest to the bandwidth: half of it lies on the rasters."""
        raster = 2 * max(limits.rf_raster_us, 1)
        wanted = 1e6 / (protocol.bandwidth_hz * protocol.n_samples)
        fastest = protocol.dk[0] / limits.max_grad * 1e6  # us a sample
        dwell = max(round(wanted / raster) * raster, up(fastest, raster))
        amplitude = float(protocol.dk[0]) / (dwell * 1e-6)
        return cls(n=protocol.n_samples, dwell_us=dwell, amplitude=amplitude, limits=limits)

    @property
    def lobe(self) -> Lobe:
        """Return the trapezoid."""
        flat = 2 * up((self.n + 1) * self.dwell_us / 2, self.limits.grad_raster_us)
        return Lobe.for_flat(self.amplitude, flat, self.limits)

    @property
    def block_us(self) -> int:
        """Return how long its block takes."""
        half = (self.n + 1) * self.dwell_us / 2 + self.limits.adc_dead_us
        return 2 * up(max(self.lobe.us / 2, half), self.limits.block_raster_us)

    @property
    def area(self) -> float:
        """Return the area of the lobe in cycles/m."""
        return self.lobe.area(self.amplitude)


class Pen:
    """Draws into one sequence; axes are those of the protocol, turned as it says."""

    def __init__(self, sequence: Any, protocol: Protocol, limits: Limits) -> None:
        import pypulseq

        self._pp, self.sequence, self._opts = pypulseq, sequence, sequence.system
        self._axes, self._limits = protocol.axes, limits
        self._shapes: dict[Pulse, Any] = {}

    def pulse(
        self, pulse: Pulse, phase: float, offset_mm: float, labels: Mapping[str, int]
    ) -> None:
        """Excite or refocus at a place along the slices' normal; `phase` is that at its centre."""
        delay = (pulse.block_us - pulse.us) // 2
        if pulse not in self._shapes:
            self._shapes[pulse] = self._pp.make_sinc_pulse(
                flip_angle=np.deg2rad(pulse.flip_deg),
                duration=pulse.us * 1e-6,
                delay=delay * 1e-6,
                apodization=0.5,
                time_bw_product=TIME_BANDWIDTH,
                use=pulse.use,
                system=self._opts,
            )
        rf = copy(self._shapes[pulse])
        rf.freq_offset = pulse.amplitude * offset_mm * 1e-3
        # the offset turns the pulse from its beginning on: at the centre that is undone
        turned = phase - 2 * np.pi * rf.freq_offset * pulse.us * 0.5e-6
        rf.phase_offset = float(np.mod(turned, 2 * np.pi))
        along = np.array([0.0, 0.0, pulse.amplitude])
        self._block(pulse.block_us, pulse.lobe, along, [rf, *self._labels(labels)])

    def lobe(self, lobe: Lobe, area: Sequence[float] | Floats, us: int) -> None:
        """Draw a lobe of an area (readout, phase, slice) in cycles/m at the start of `us`."""
        self._block(us, lobe, lobe.amplitude(np.asarray(area)), [], at=0)

    def readout(self, readout: Readout, phase: float | None, labels: Mapping[str, int]) -> None:
        """Read a line; without `phase` the gradient is drawn and nothing is acquired."""
        events: list[Any] = []
        if phase is not None:
            begin = (
                readout.block_us // 2 - readout.n // 2 * readout.dwell_us - readout.dwell_us // 2
            )
            adc = self._pp.make_adc(
                num_samples=readout.n,
                dwell=readout.dwell_us * 1e-6,
                delay=begin * 1e-6,
                phase_offset=float(np.mod(phase, 2 * np.pi)),
                system=self._opts,
            )
            events = [adc, *self._labels(labels)]
        along = np.array([readout.amplitude, 0.0, 0.0])
        self._block(readout.block_us, readout.lobe, along, events)

    def wait(self, us: int) -> None:
        """Let time pass."""
        if us > 0:
            self.sequence.add_block(self._pp.make_delay(us * 1e-6))

    def _block(
        self, us: int, lobe: Lobe, amplitudes: Floats, events: list[Any], at: int | None = None
    ) -> None:
        """Add a block of a length with a lobe in its middle, or `at` a time."""
        delay = (us - lobe.us) // 2 if at is None else at
        gradients = [
            self._pp.make_trapezoid(
                channel=axis,
                amplitude=amplitude,
                rise_time=lobe.rise_us * 1e-6,
                flat_time=lobe.flat_us * 1e-6,
                fall_time=lobe.rise_us * 1e-6,
                delay=delay * 1e-6,
                system=self._opts,
            )
            for axis, amplitude in drawn(self._axes @ amplitudes)
        ]
        self.sequence.add_block(*events, *gradients, self._pp.make_delay(us * 1e-6))

    def _labels(self, labels: Mapping[str, int]) -> list[Any]:
        return [self._pp.make_label(type="SET", label=k, value=v) for k, v in labels.items()]
