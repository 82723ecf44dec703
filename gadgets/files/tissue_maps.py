"""Tissue maps beside a scan, from which a sequence's own signal can be computed.

They lie in the group `/tissues` of an MRD file, which readers of MRD pass over: `names` (tissues,)
text; `density_t1_t2` (tissues, 3), CSF's density being 1, times in ms; `fractions` (slices,
tissues, x, y) float32; `coils` (slices, coils, x, y) complex64, sensitivities with the object's
phase.
The matrix is the encoded one, without the oversampling of the readout.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from mnet.sequence.tissue import Tissue, columns

from ..errors import ConfigError
from .hdf5 import dataset, has
from .hdf5_process import Json, Piece, read_apart

GROUP = "tissues"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TissueMaps:
    """What is where, and how the coils see it; ConfigError where the arrays do not fit."""

    tissues: tuple[Tissue, ...]
    fractions: NDArray[np.float32]  # (slices, tissues, x, y)
    coils: NDArray[np.complex64]  # (slices, coils, x, y)

    def __post_init__(self) -> None:
        slices, tissues, *matrix = self.fractions.shape
        wanted = (slices, len(self.tissues), self.coils.shape[1], *matrix)
        got = (self.coils.shape[0], tissues, *self.coils.shape[1:])
        if wanted != got:
            raise ConfigError(
                f"tissue maps: fractions are {self.fractions.shape} of {len(self.tissues)} "
                f"tissues, coils are {self.coils.shape}; see gadgets/files/tissue_maps.py"
            )


def write_tissues(path: Path, maps: TissueMaps) -> None:
    """Add tissue maps to an MRD file."""
    with h5py.File(path, "a") as file:
        group = file.create_group(GROUP)
        group["names"] = [tissue.name for tissue in maps.tissues]
        group["density_t1_t2"] = columns(maps.tissues).T
        group["fractions"] = maps.fractions
        group["coils"] = maps.coils


def read_tissues(path: Path) -> TissueMaps:
    """Read the tissue maps of a file.

    Raises
    ------
    ConfigError
        If it has none, or they do not fit together.
    """
    if path.is_dir():
        raise ConfigError(_none(path))
    found, arrays = read_apart(path, f"{__name__}:look")
    if not arrays:
        raise ConfigError(_none(path))
    columns, fractions, coils = arrays
    try:
        rows = list(zip(found["names"], columns, strict=True))
        return TissueMaps(
            tissues=tuple(
                Tissue(name=str(name), density=float(d), t1_ms=float(t1), t2_ms=float(t2))
                for name, (d, t1, t2) in rows
            ),
            fractions=fractions,
            coils=coils,
        )
    except (ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{path}: tissue maps do not fit together: {error}") from error


def look(file: h5py.File) -> tuple[Json, list[Piece]]:
    """Give the names of tissues, and columns, fractions and coils; nothing where there are none."""
    if not has(file, GROUP):
        return {}, []
    group = file[GROUP]
    names = [text.decode() for text in dataset(group, "names")[()].tolist()]
    return {"names": names}, [
        dataset(group, name)[()] for name in ("density_t1_t2", "fractions", "coils")
    ]


def _none(path: Path) -> str:
    return (
        f"{path.name} has no tissue maps (/{GROUP}), which --physics needs: "
        "`mnet demo --keep FILE` writes a scan with them"
    )
