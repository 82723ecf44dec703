"""Fully sampled scans on disk: MRD and fastMRI files, slice by slice.

Files are read, and lines centred and placed, by what the streaming side does it with: a slice is
the k-space of the frame that a pipeline makes of the same lines.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gadgets.errors import ConfigError, GadgetError, IncompleteError, ProtocolError
from gadgets.files.kspace_file import KspaceFile
from gadgets.files.source import open_kspace
from gadgets.mrd.complete import check_complete, placed, without_empty_edges
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.items import Acquisition, Complex
from gadgets.mrd.line_index import LineIndex, line_index
from mnet.masks.line_plan import Bool
from mnet.physics.readout import to_pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredVolume:
    """A fully sampled scan on disk."""

    file: KspaceFile
    geometry: Geometry
    index: LineIndex
    empty: tuple[str, ...] = ()  # what is said of rows of zeros

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def subject(self) -> str:
        """Whose scan it is."""
        return self.file.subject

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed."""
        return self.file.assumed + self.empty

    @property
    def n_slices(self) -> int:
        """How many images there are."""
        return len(self.index.slices)

    @property
    def n_coils(self) -> int:
        """How many coils every slice has."""
        return self.index.n_coils

    @property
    def acquirable(self) -> Bool:
        """Rows (ky,) that were measured, the same in every slice."""
        return self.index.acquirable

    @property
    def crop(self) -> tuple[int, int]:
        """Pixels (x, y) of the hybrid matrix that the image keeps; for `fov.to_recon_space`."""
        return self.geometry.kept

    @property
    def matrix(self) -> tuple[int, int]:
        """Pixels (x, y) of the final image over the cropped field of view."""
        return self.geometry.recon[:2]

    def hybrid(self, number: int) -> Tensor:
        """Read one slice: (coils, x, ky) complex64, zero on rows that were not measured.

        Raises
        ------
        ValueError
            If the slice is damaged, not finite, empty, or lacks lines that the volume should have.
        """
        kspace = torch.from_numpy(self._rows(number))
        return to_pixels(kspace, self.geometry.n_x).permute(1, 2, 0).contiguous()

    def kspace(self, number: int) -> Complex:
        """Read one slice before its readout transform: (coils, kx, ky); errors as of `hybrid`."""
        return self._rows(number).transpose(1, 2, 0)

    def noise_readouts(self) -> list[Acquisition]:
        """Read the noise readouts, none where there are none; ValueError for a damaged file."""
        with naming(self.path):
            return self.file.lines(self.index.noise)

    def _rows(self, number: int) -> Complex:
        """Read one slice as it is placed, (ky, coils, kx)."""
        if not 0 <= number < self.n_slices:
            raise ValueError(f"{self.path}: slice {number}, expected 0 to {self.n_slices - 1}")
        with naming(self.path):
            kspace = placed(self.file.lines(self.index.slices[number]), self.geometry)
            try:
                check_complete(kspace, self.acquirable, self.geometry)
            except IncompleteError as error:
                raise IncompleteError(f"slice {number}: {error}") from error
            kspace[~self.acquirable] = 0
        return kspace


def read_volume(path: Path, *, need_header: bool = False) -> MeasuredVolume:
    """Open a fastMRI or MRD file, told apart by content; slices are read when asked for.

    Without a usable header the rows that hold anything are taken as measured, no oversampling is
    assumed, and `notes` says so; with `need_header` that is an error.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, neither of the two, of another shape, or not fully sampled.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with naming(path):
        file = open_kspace(path)
        if need_header and file.assumed:
            raise ValueError(file.assumed[0])
        geometry = Geometry.parse(file.header)
        index = line_index(file.headers(), geometry)
        first = placed(file.lines(index.slices[0]), geometry)
        rows = without_empty_edges(first, index.acquirable)
    n_empty = int((index.acquirable & ~rows).sum())
    notes = (f"{n_empty} rows at the edges hold only zeros: not acquirable",) if n_empty else ()
    return MeasuredVolume(
        file=file, geometry=geometry, index=replace(index, acquirable=rows), empty=notes
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in every error, all of which become ValueError."""
    try:
        yield
    except (ConfigError, ProtocolError) as error:  # of the reader, which has named it
        raise ValueError(str(error)) from error
    except (GadgetError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
