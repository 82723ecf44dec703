"""What is measured: the numbers of a protocol, and how its axes lie in the scanner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

Floats = NDArray[np.float64]
Kind = Literal["tse", "gre"]
OVERSAMPLING = 2  # along the readout


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A 2-D Cartesian protocol; lengths in mm, times in ms, angles in degrees.

    Raises ConfigError for one that cannot be.
    """

    kind: Kind
    matrix: tuple[int, int] = (256, 256)  # along readout and phase encoding
    fov_mm: tuple[float, float] = (256.0, 256.0)
    thickness_mm: float = 4.0
    slices_mm: tuple[float, ...] = (0.0,)  # from the isocentre along the slices' normal
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)  # about x, then y, then z
    tr_ms: float = 3000.0  # of a slice
    echo_ms: float | None = None  # tse: from echo to echo; gre: from pulse to echo; None: shortest
    train: int = 8  # echoes of a shot
    flip_deg: float = 180.0  # tse: of refocusing; gre: of the pulse
    bandwidth_hz: float = 300.0  # of a pixel, about
    dummies: int = 1  # shots of a slice that nothing is acquired in

    def __post_init__(self) -> None:
        self._check("matrix", min(self.matrix) >= 4 and max(self.matrix) <= 4096, "4 to 4096 each")
        self._check("matrix", self.matrix[0] % 2 == 0, "an even number of samples along x")
        self._check("fov_mm", min(self.fov_mm) > 0, "more than 0")
        self._check("thickness_mm", self.thickness_mm > 0, "more than 0")
        self._check("slices_mm", len(self.slices_mm) > 0, "at least one slice")
        self._check(
            "train",
            self.train >= 1 and (self.kind == "tse" or self.train == 1),
            "1 or more, 1 for gre",
        )
        self._check("dummies", self.dummies >= 0, "0 or more")
        self._check("bandwidth_hz", self.bandwidth_hz > 0, "more than 0")
        self._check("flip_deg", 0 < self.flip_deg <= 180, "above 0, at most 180")
        self._check("tr_ms", self.tr_ms > 0, "more than 0")

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name}: expected {expected}, got {getattr(self, name)}")

    @property
    def n_samples(self) -> int:
        """Samples of a readout."""
        return self.matrix[0] * OVERSAMPLING

    @property
    def dk(self) -> Floats:
        """Return the step of samples and of lines (2,) in cycles/m."""
        x, y = self.fov_mm
        return np.array([1e3 / (x * OVERSAMPLING), 1e3 / y])

    @property
    def axes(self) -> Floats:
        """Return the directions (3, 3) of readout, phase and slice, one a column."""
        x, y, z = np.deg2rad(self.rotation_deg)
        turned: Floats = _about(2, z) @ _about(1, y) @ _about(0, x)
        return turned

    @property
    def interleaved(self) -> bool:
        """Whether slices take turns: a gradient echo is one slice after the other."""
        return self.kind == "tse"


def stack(n: int, spacing_mm: float) -> tuple[float, ...]:
    """Return the positions of slices around the isocentre."""
    return tuple(float((i - (n - 1) / 2) * spacing_mm) for i in range(n))


def turns(n: int) -> Sequence[int]:
    """Return slices in the order of their turns: neighbours are not excited one after the other."""
    return [*range(0, n, 2), *range(1, n, 2)]


def _about(axis: int, angle: float) -> Floats:
    a, b = [i for i in range(3) if i != axis]
    sign = -1 if axis == 1 else 1
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[b, a], turn[a, b] = sign * np.sin(angle), -sign * np.sin(angle)
    return turn
