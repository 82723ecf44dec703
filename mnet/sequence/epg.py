"""Extended phase graphs: what pulses and gradients make of magnetization, without isochromats.

States are arrays (3, ..., orders) complex: F(k), the conjugate of F(-k), and Z(k), for k = 0, 1,
2... cycles of dephasing; the axes between may be tissues and places in the slice. Hennig 1991,
doi:10.1002/cmr.1820030302; in the notation of Weigel 2015, doi:10.1002/jmri.24619.
"""

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]


def at_rest(mz: Floats, n_orders: int) -> Complex:
    """Return states (3, ..., n_orders) of longitudinal magnetization (...) alone."""
    states = np.zeros((3, *mz.shape, n_orders), dtype=np.complex128)
    states[2, ..., 0] = mz
    return states


def rotation(flip: Floats, phase: float) -> Complex:
    """Return the pulse (3, 3, ...) of flip angles (...) in rad about an axis `phase` rad from x."""
    turn, half = np.exp(1j * phase), flip / 2
    sin, cos = np.sin(flip), np.cos(flip)
    same, other = np.cos(half) ** 2 + 0j, np.sin(half) ** 2 + 0j
    return np.array(
        [
            [same, turn**2 * other, -1j * turn * sin],
            [turn.conj() ** 2 * other, same, 1j * turn.conj() * sin],
            [-0.5j * turn.conj() * sin, 0.5j * turn * sin, cos + 0j],
        ]
    )


def pulse(states: Complex, matrix: Complex) -> Complex:
    """Apply a rotation to states."""
    f, g, z = states
    m = matrix[..., None]
    return np.stack([row[0] * f + row[1] * g + row[2] * z for row in m])


def relax(states: Complex, e1: Floats, e2: Floats) -> Complex:
    """Relax by factors (...): exp(-t / T1) and exp(-t / T2); Z(0) recovers towards 1."""
    relaxed = states * np.stack([e2, e2, e1])[..., None]
    relaxed[2, ..., 0] += 1 - e1
    return relaxed


def dephase(states: Complex) -> Complex:
    """Shift by one cycle; the highest order is lost."""
    shifted = states.copy()
    shifted[0, ..., 1:] = states[0, ..., :-1]
    shifted[1, ..., :-1] = states[1, ..., 1:]
    shifted[1, ..., -1] = 0
    shifted[0, ..., 0] = shifted[1, ..., 0].conj()
    return shifted
