"""Looks at a finished sequence with pypulseq's eyes: where samples lie in k-space, and when.

`check_timing` finds what is off a raster; it finds no sample that lies half a step from its place,
no echo that comes too late, and no gradient that is too strong once a slice is turned.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mnet.sequence.echo_order import IDLE

from .course import Course
from .limits import Limits
from .protocol import Floats, Protocol
from .shots import drawer


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How far a sequence is from its protocol."""

    kspace_dk: float  # largest distance of a sample from its place, in 1 / field of view
    slice_cycles: float  # the same across the slice, in cycles over its thickness
    echo_us: float  # largest distance of k = 0 of a line from its echo time
    grad_share: float  # longest gradient vector over the limit
    slew_share: float  # steepest change of that vector over the limit
    timing: bool  # what pypulseq says

    @property
    def sentence(self) -> str:
        """Say it to a person."""
        return (
            f"k-space within {self.kspace_dk:.1g} dk, echoes within {self.echo_us:.1g} us, "
            f"gradients at {100 * self.grad_share:.0f} % and slew rates at "
            f"{100 * self.slew_share:.0f} % of the limits in any orientation, timing "
            f"{'right' if self.timing else 'WRONG'}"
        )


def check(sequence: Any, protocol: Protocol, course: Course, limits: Limits) -> Checked:
    """Compare a sequence, drawn or read from a file, with what it shall be."""
    k, _, excited, _, times = sequence.calculate_kspace()
    lines = _lines(course)
    places = (protocol.axes.T @ k).reshape(3, len(lines), protocol.n_samples)
    wanted = _wanted(protocol, lines)
    off = np.abs(places - wanted)
    middle = times.reshape(len(lines), -1)[:, protocol.n_samples // 2]
    excited = np.asarray(excited)
    since = middle - excited[np.searchsorted(excited, middle) - 1]
    shots = drawer(protocol, limits)
    echoes = np.array([shots.echo_us(echo + 1) for _, echo in lines]) * 1e-6
    strong, steep = _gradients(sequence)
    return Checked(
        kspace_dk=float(np.max(off[:2].max(axis=(1, 2)) * np.array(protocol.fov_mm) * 1e-3)),
        slice_cycles=float(off[2].max() * protocol.thickness_mm * 1e-3),
        echo_us=float(1e6 * np.abs(since - echoes).max()),
        grad_share=strong / limits.max_grad,
        slew_share=steep / limits.max_slew,
        timing=bool(sequence.check_timing()[0]),
    )


def _lines(course: Course) -> list[tuple[int, int]]:
    """Return row and echo, from 0, of every readout in time."""
    return [
        (int(row), echo)
        for shot in course.shots()
        if shot.rows is not None
        for echo, row in enumerate(shot.rows)
        if row != IDLE
    ]


def _wanted(protocol: Protocol, lines: list[tuple[int, int]]) -> Floats:
    """Return where samples shall be, (3, lines, samples) in cycles/m."""
    n, n_y = protocol.n_samples, protocol.matrix[1]
    x = (np.arange(n) - n // 2) * protocol.dk[0]
    y = (np.array([row for row, _ in lines]) - n_y // 2) * protocol.dk[1]
    places: Floats = np.stack(
        [
            np.broadcast_to(x, (len(lines), n)),
            np.broadcast_to(y[:, None], (len(lines), n)),
            np.zeros((len(lines), n)),
        ]
    )
    return places


def _gradients(sequence: Any) -> tuple[float, float]:
    """Return the length of the longest gradient vector in Hz/m, and of its change in Hz/m/s."""
    waves = [np.asarray(wave) for wave in sequence.waveforms_and_times()[0]]
    times = np.unique(np.round(np.concatenate([wave[0] for wave in waves if wave.size]), 10))
    vectors = np.stack(
        [
            np.interp(times, wave[0], wave[1]) if wave.size else np.zeros_like(times)
            for wave in waves
        ]
    )
    steps = np.diff(times)
    slopes = np.diff(vectors, axis=1) / steps
    return float(np.linalg.norm(vectors, axis=0).max()), float(
        np.linalg.norm(slopes, axis=0)[steps > 1e-8].max()
    )
