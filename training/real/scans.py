"""Real scans: slices of fully sampled files, whitened and scaled as the deployed pipeline does it.

Every method and every sampler gets a scan from here, with maps of its calibration lines alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mnet.masks.line_plan import Bool, LinePlan
from mnet.physics import fov, sense
from mnet.physics.coil_maps import coil_maps
from mnet.physics.fourier import inverse_fourier
from training.data.corpus import Sample
from training.data.fastmri import read_sample
from training.data.volume import MeasuredVolume, read_volume
from training.data.whitening import whitening
from training.real.means import is_phantom

SUFFIXES = (".h5", ".hdf5", ".mrd")
# two files of one head, which their own headers do not say
SAME_SUBJECT = {
    "brain_t2_4ch_gpunufft": "brain_t2_4ch",
    "brain_t2_4ch_agile_os": "brain_t2_4ch",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class RealScan:
    """One slice of a file at one acceleration."""

    file: str
    subject: str
    slice: int
    sample: Sample  # whitened, mean brightness about 1, maps from the calibration lines
    crop: tuple[int, int]  # pixels (x, y) that stay of the encoded field of view
    matrix: tuple[int, int]  # of the final image

    @property
    def plan(self) -> LinePlan:
        """Budget and calibration."""
        return self.sample.plan()

    @cached_property
    def coil_images(self) -> Tensor:
        """The images (coils, x, y) of all lines."""
        return inverse_fourier(self.sample.kspace, dim=-1)

    @cached_property
    def encoded_reference(self) -> Tensor:
        """The complex image (x, y) of all lines, combined with the maps that methods use."""
        return sense.combine(self.coil_images, self.sample.csm)

    @cached_property
    def reference(self) -> Tensor:
        """The same in the reconstructed space."""
        return self.to_recon_space(self.encoded_reference)

    @cached_property
    def rss(self) -> Tensor:
        """The root of the sum of squares (x, y) of the images of all lines."""
        return self.to_recon_space(self.coil_images).abs().square().sum(0).sqrt()

    def to_recon_space(self, images: Tensor) -> Tensor:
        """Bring complex images (..., x, y) from the encoded space to the reconstructed one."""
        return fov.to_recon_space(images, self.crop, self.matrix)


def maps_of(kspace: Tensor, calibration: Bool) -> Tensor:
    """Estimate maps (coils, x, y) of hybrid k-space from its calibration rows (ky,) alone."""
    return coil_maps(kspace[..., torch.from_numpy(calibration)], kspace.shape[-1])


def files_in(places: Sequence[Path]) -> list[Path]:
    """Return the k-space files among `places`, each a folder or a file, sorted by name.

    A file that is named is one whatever its suffix: content tells.

    Raises
    ------
    FileNotFoundError
        If a place does not exist, or a folder holds none.
    """
    found: list[Path] = []
    for place in places:
        if place.is_file():
            found.append(place)
            continue
        inside = sorted(place.iterdir()) if place.is_dir() else []
        files = [path for path in inside if path.suffix in SUFFIXES and path.is_file()]
        if not files:
            raise FileNotFoundError(
                f"{place}: expected k-space files ({', '.join(SUFFIXES)}), found none"
            )
        found += files
    return sorted(set(found), key=lambda path: (path.name, str(path)))


def subject_of(volume: MeasuredVolume) -> str:
    """Return whose scan a file is: what it says, or its name; files of one head share a subject."""
    return SAME_SUBJECT.get(volume.path.stem, volume.subject)


def middle(n_slices: int, wanted: int | None) -> range:
    """Return the `wanted` middle slices, all where None or where there are not more."""
    n = n_slices if wanted is None else min(wanted, n_slices)
    first = (n_slices - n) // 2
    return range(first, first + n)


def read_scans(
    path: Path, accelerations: Sequence[float], n_slices: int | None = None
) -> Iterator[RealScan]:
    """Read the middle slices of a file (all where None) at every acceleration.

    Raises
    ------
    ValueError
        If the file is damaged or not fully sampled; it is named.
    """
    volume = read_volume(path)
    matrix, _ = whitening(volume)
    for number in middle(volume.n_slices, n_slices):
        for acceleration in accelerations:
            yield RealScan(
                file=path.name,
                subject=subject_of(volume),
                slice=number,
                sample=read_sample(volume, number, acceleration, matrix),
                crop=volume.crop,
                matrix=volume.matrix,
            )


def about(path: Path) -> dict[str, object]:
    """Describe a file for the table."""
    volume = read_volume(path)
    return {
        "file": path.name,
        "subject": subject_of(volume),
        "phantom": is_phantom(subject_of(volume)),
        "n_coils": volume.n_coils,
        "n_slices": volume.n_slices,
        "encoded": [volume.geometry.n_x, int(volume.acquirable.size)],
        "acquirable": int(volume.acquirable.sum()),
        "matrix": list(volume.matrix),
        "whitening": whitening(volume)[1],
        "assumed": list(volume.notes),
    }
