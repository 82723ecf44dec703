"""Arrays as BART reads and writes them: NAME.hdr and NAME.cfl."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def write_cfl(path: Path, array: Array) -> None:
    """Write what BART reads."""
    sizes = " ".join(str(n) for n in array.shape)
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{sizes}\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def read_cfl(path: Path) -> Array:
    """Read what BART wrote."""
    sizes = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(sizes, order="F").squeeze()
