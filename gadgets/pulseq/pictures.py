"""One shot of a sequence as a diagram, and k-space by the echo at which every line is measured."""

from pathlib import Path
from typing import Any

import numpy as np

from mnet.sequence.echo_order import IDLE

from ..errors import ConfigError
from .course import Course
from .protocol import Protocol

_ROWS = ("RF", "Gx", "Gy", "Gz", "ADC")
_MT = 1e3 / 42.576e6  # Hz/m to mT/m


def draw(path: Path, sequence: Any, protocol: Protocol, course: Course) -> None:
    """Draw both into one file, of the kind that its name ends in; ConfigError if it cannot be."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(2, 1))
    left, right = parts
    _shot(left, sequence, protocol)
    _echoes(right, protocol, course)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be drawn: {error}") from error


def _shot(figure: Any, sequence: Any, protocol: Protocol) -> None:
    """Draw the first shot that acquires, on the scanner's axes."""
    begin, end = _first_shot(sequence)
    waves = sequence.waveforms_and_times(append_RF=True, time_range=[begin, end])[0]
    axes = figure.subplots(len(_ROWS), 1, sharex=True)
    figure.suptitle(f"one shot of {protocol.kind}, ms from its excitation")
    order = (3, 0, 1, 2)
    for axis, name, number in zip(axes, _ROWS, order, strict=False):
        times, values = np.real(waves[number][0]), waves[number][1]
        values = np.abs(values) if name == "RF" else np.real(values) * _MT
        axis.plot(1e3 * (times - begin), values, lw=1.0, color="tab:red" if name == "RF" else "k")
        axis.set_ylabel(f"{name}\n{'Hz' if name == 'RF' else 'mT/m'}")
    samples = sequence.adc_times(time_range=[begin, end])[0]
    readouts = samples.reshape(-1, protocol.n_samples)
    for readout in readouts:
        axes[-1].axvspan(*(1e3 * (readout[[0, -1]] - begin)), color="tab:blue", alpha=0.5)
    axes[-1].set_yticks([])
    axes[-1].set_ylabel("ADC")
    axes[-1].set_xlim(0, 1e3 * (end - begin))


def _first_shot(sequence: Any) -> tuple[float, float]:
    """Return from when to when the first shot with a readout takes, its waiting time left out."""
    t, begin, end, read = 0.0, 0.0, 0.0, False
    for number in sequence.block_events:
        block, us = sequence.get_block(number), sequence.block_durations[number]
        if block.rf is not None and block.rf.use == "excitation":
            if read:
                break
            begin = t
        read |= block.adc is not None
        t += us
        if block.rf is not None or block.adc is not None or block.gz is not None:
            end = t
    return begin, end


def _echoes(figure: Any, protocol: Protocol, course: Course) -> None:
    """Mark the rows of the first slice at their echoes."""
    axis = figure.subplots()
    for calibration, color, name in (
        (True, "tab:orange", "calibration"),
        (False, "tab:blue", "chosen"),
    ):
        points = [
            (echo + 1, int(row) - protocol.matrix[1] // 2)
            for shot in course.shots()
            if shot.rows is not None and shot.slice == 0 and shot.calibration == calibration
            for echo, row in enumerate(shot.rows)
            if row != IDLE
        ]
        if points:
            axis.plot(*zip(*points, strict=True), "_", ms=14, mew=1.5, color=color, label=name)
    axis.axhline(0, lw=0.5, color="gray")
    axis.set_xlim(0.3, protocol.train + 0.7)
    axis.set_ylim(-protocol.matrix[1] / 2, protocol.matrix[1] / 2)
    axis.set_xlabel("echo")
    axis.set_ylabel("ky, lines from the centre")
    axis.set_title("first slice: lines by echo")
    axis.legend(loc="lower left")
