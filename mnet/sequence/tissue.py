"""Proton density, T1 and T2 of the tissues of a head at 3 T.

Grey and white matter: Stanisz et al. 2005, doi:10.1002/mrm.20605. Fat and muscle: Gold et al. 2004,
doi:10.2214/ajr.183.2.1830343. T1 of CSF: Rooney et al. 2007, doi:10.1002/mrm.21122; its T2:
Spijkerman et al. 2018, doi:10.1007/s10334-017-0659-3. Densities are those of water, CSF being 1;
grey and white matter: Volz et al. 2012, doi:10.1016/j.neuroimage.2012.06.076, rounded; those of fat
and muscle are assumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """What a sequence needs to know of a tissue; ValueError for times that are not above 0."""

    name: str
    density: float  # of protons, CSF being 1
    t1_ms: float
    t2_ms: float

    def __post_init__(self) -> None:
        if not (self.density >= 0 and self.t1_ms >= self.t2_ms > 0):
            raise ValueError(
                f"{self.name}: expected a density of at least 0 and T1 >= T2 > 0, got "
                f"{self.density:g}, {self.t1_ms:g} ms and {self.t2_ms:g} ms"
            )


CSF = Tissue(name="csf", density=1.0, t1_ms=4300.0, t2_ms=2000.0)
GREY = Tissue(name="grey matter", density=0.82, t1_ms=1820.0, t2_ms=99.0)
WHITE = Tissue(name="white matter", density=0.70, t1_ms=1084.0, t2_ms=69.0)
FAT = Tissue(name="fat", density=1.0, t1_ms=371.0, t2_ms=133.0)  # scalp and marrow
MUSCLE = Tissue(name="muscle", density=0.8, t1_ms=1420.0, t2_ms=32.0)  # stands for skin, too
HEAD = (CSF, GREY, WHITE, FAT, MUSCLE)


def columns(tissues: Sequence[Tissue]) -> NDArray[np.float64]:
    """Return density, T1 and T2 in ms as an array (3, tissues)."""
    return np.array([(t.density, t.t1_ms, t.t2_ms) for t in tissues]).T
