"""An oracle for sequences: single spins of a slice and a pixel, through every block of a sequence.

Pulses are followed step by step with the gradient that stands while they play; nothing is known of
echoes, slices or phase graphs. Pulses are those of slices along z.
"""

from typing import Any

import numpy as np

STEP_US = 10  # of pulses: some hundredths of a turn


def signals(sequence: Any, x_m: np.ndarray, z_m: np.ndarray, t1: float, t2: float) -> np.ndarray:
    """Return the mean signal of spins (x, z) at the middle sample of every readout; T in s."""
    places = np.stack(np.meshgrid(x_m, z_m)).reshape(2, -1)
    m = np.zeros((places.shape[1], 3))
    m[:, 2] = 1.0
    found = []
    for number in sequence.block_events:
        block = sequence.get_block(number)
        end = sequence.block_durations[number]
        if block.rf is not None:
            m = _pulse(block, m, places, t1, t2, end)
        elif block.adc is not None:
            adc = block.adc
            middle = adc.delay + (adc.num_samples // 2 + 0.5) * adc.dwell
            m = _free(m, places, _area(block, 0, middle), middle, t1, t2)
            found.append((m[:, 0] + 1j * m[:, 1]).mean() * np.exp(-1j * adc.phase_offset))
            m = _free(m, places, _area(block, middle, end), end - middle, t1, t2)
        else:
            m = _free(m, places, _area(block, 0, end), end, t1, t2)
    return np.array(found)


def _gradient(block: Any, times: np.ndarray) -> np.ndarray:
    """Return the x and z gradients (2, times) in Hz/m."""
    found = np.zeros((2, times.size))
    for row, g in zip(found, (block.gx, block.gz), strict=True):
        if g is not None:
            corners = g.delay + np.cumsum([0, g.rise_time, g.flat_time, g.fall_time])
            heights = [0, g.amplitude, g.amplitude, 0]
            row[:] = np.interp(times, corners, heights, left=0, right=0)
    return found


def _area(block: Any, begin: float, end: float) -> np.ndarray:
    """Return the areas (2,) between two times of a block."""
    inner = [
        g.delay + np.cumsum([0, g.rise_time, g.flat_time, g.fall_time])
        for g in (block.gx, block.gz)
        if g is not None
    ]
    times = np.unique(np.clip(np.concatenate([[begin, end], *inner]), begin, end))
    return np.trapezoid(_gradient(block, times), times, axis=1)


def _free(
    m: np.ndarray, places: np.ndarray, area: np.ndarray, t: float, t1: float, t2: float
) -> np.ndarray:
    across = (m[:, 0] + 1j * m[:, 1]) * np.exp(2j * np.pi * (area @ places) - t / t2)
    along = 1 + (m[:, 2] - 1) * np.exp(-t / t1)
    return np.stack([across.real, across.imag, along], axis=1)


def _pulse(
    block: Any, m: np.ndarray, places: np.ndarray, t1: float, t2: float, end: float
) -> np.ndarray:
    rf = block.rf
    n = round(rf.shape_dur * 1e6 / STEP_US)
    step = rf.shape_dur / n
    b1 = np.interp((np.arange(n) + 0.5) * step, rf.t, np.abs(rf.signal) * np.sign(rf.signal.real))
    m = _free(m, places, _area(block, 0, rf.delay), rf.delay, t1, t2)
    gradient = _gradient(block, np.array([rf.delay + rf.shape_dur / 2]))[:, 0]
    for i, strength in enumerate(b1):
        m = _free(m, places, gradient * step / 2, step / 2, t1, t2)
        phase = rf.phase_offset + 2 * np.pi * rf.freq_offset * (i + 0.5) * step
        m = _turned(m, 2 * np.pi * strength * step, phase)
        m = _free(m, places, gradient * step / 2, step / 2, t1, t2)
    after = rf.delay + rf.shape_dur
    return _free(m, places, _area(block, after, end), end - after, t1, t2)


def _turned(m: np.ndarray, angle: float, phase: float) -> np.ndarray:
    axis = np.array([np.cos(phase), np.sin(phase), 0.0])
    along = m @ axis
    return (
        m * np.cos(angle)
        + np.cross(axis, m) * np.sin(angle)
        + np.outer(along, axis) * (1 - np.cos(angle))
    )
