"""An oracle for EPG: single spins, spread evenly over the cycles of the gradient, one by one."""

import numpy as np


def turned(spins: np.ndarray, flip: float, phase: float) -> np.ndarray:
    """Turn spins (n, 3) by `flip` about the axis (cos phase, sin phase, 0), right-handed."""
    axis = np.array([np.cos(phase), np.sin(phase), 0.0])
    along = spins @ axis
    return (
        spins * np.cos(flip)
        + np.cross(axis, spins) * np.sin(flip)
        + np.outer(along, axis) * (1 - np.cos(flip))
    )


def precessed(spins: np.ndarray, ms: float, t1: float, t2: float, cycles: float) -> np.ndarray:
    """Relax for `ms` while the gradient spreads the spins over `cycles`."""
    angle = 2 * np.pi * cycles * np.arange(len(spins)) / len(spins)
    across = (spins[:, 0] + 1j * spins[:, 1]) * np.exp(1j * angle - ms / t2)
    along = 1 + (spins[:, 2] - 1) * np.exp(-ms / t1)
    return np.stack([across.real, across.imag, along], axis=1)


def echo_train(t1, t2, n_echoes, spacing, refocusing, mz, n=256, excitation=np.pi / 2):
    """Return the echoes, complex, of one CPMG train, and mz after it."""
    spins = np.tile([0.0, 0.0, mz], (n, 1))
    spins = turned(spins, excitation, np.pi / 2)
    echoes = []
    for _ in range(n_echoes):
        spins = precessed(spins, spacing / 2, t1, t2, 1)
        spins = turned(spins, refocusing, 0.0)
        spins = precessed(spins, spacing / 2, t1, t2, 1)
        echoes.append((spins[:, 0] + 1j * spins[:, 1]).mean())
    return np.array(echoes), spins[:, 2].mean()


def spoiled(t1, t2, n_pulses, tr, te, flip, n, silent_ms=0.0, silent_at=-1):
    """Return the signals, complex, of an RF-spoiled gradient echo; a silence before one pulse."""
    spins = np.tile([0.0, 0.0, 1.0], (n, 1))
    signals = []
    for i in range(n_pulses):
        if i == silent_at:
            spins = precessed(spins, silent_ms, t1, t2, 0)
        phase = np.deg2rad(117.0) * i * (i + 1) / 2
        spins = turned(spins, flip, phase + np.pi / 2)
        across = (spins[:, 0] + 1j * spins[:, 1]).mean()
        signals.append(across * np.exp(-1j * phase - te / t2))
        spins = precessed(spins, tr, t1, t2, 1)
    return np.array(signals)
