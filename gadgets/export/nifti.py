"""MRD images as NIfTI volumes, in scanner coordinates.

NIfTI counts R, A and S upwards where MRD and DICOM count L, P and S, so x and y change their sign.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, HeaderError
from ..mrd.items import Image
from .placement import Floats, Placement
from .series import Series, loops, series_of, values_of

SUFFIXES = (".nii.gz", ".nii")
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_EVEN = 0.01  # mm by which slices may be off a grid, for positions are 32-bit numbers


def require() -> None:
    """Raise ConfigError where nibabel is not installed."""
    try:
        import nibabel  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "NIfTI is written by the package nibabel: pip install mnet-gadgets[export]"
        ) from error


def write_nifti(path: Path, images: Sequence[Image]) -> list[Path]:
    """Write each series as one file; return their paths.

    The axes are x, y, slice and, where there are several, the volumes: repetitions, in each of them
    contrasts, phases and sets. The first series goes to `path`, others beside it with `_series2`
    and so on before the suffix. Values are 32-bit floats, or complex.

    Raises
    ------
    ConfigError
        If nibabel is missing or the images make no whole volumes.
    HeaderError
        If slices are not parallel and evenly spaced, or it is not known where they lie.
    """
    require()
    import nibabel

    make: Any = nibabel.Nifti1Image  # it has types in parts only
    made = []
    for place, series in enumerate(series_of(images)):
        data, affine = volume(series)
        image = make(data, affine)
        image.set_qform(affine, code="scanner")
        image.set_sform(affine, code="scanner")
        image.header.set_xyzt_units("mm")
        target = path if place == 0 else _beside(path, series.number)
        made.append((target, image))
    for target, image in made:
        nibabel.save(image, target)
    return [target for target, _ in made]


def volume(series: Series) -> tuple[np.ndarray, Floats]:
    """Return values (x, y, slice[, volume]) and the affine from voxels to RAS coordinates, mm."""
    volumes: dict[tuple[int, ...], list[Image]] = {}
    for image in series.images:
        # `LOOPS` has the repetition last; volumes are sorted with it first
        *inner, repetition = loops(image)
        volumes.setdefault((repetition, *reversed(inner)), []).append(image)
    first = next(iter(volumes.values()))
    slices = [int(image.header["slice"]) for image in first]
    for members in volumes.values():
        if [int(image.header["slice"]) for image in members] != slices:
            raise ConfigError(
                f"series {series.number} makes no whole volumes: one has {len(first)} slices, "
                f"another {len(members)}"
            )
    places = [Placement.of(image) for image in first]
    order = np.argsort([place.first @ places[0].normal for place in places], kind="stable")
    affine = _affine(series.number, [places[i] for i in order])
    shapes = {image.data.shape for image in series.images}
    if len(shapes) > 1:
        raise ConfigError(f"series {series.number} has images of several shapes: {sorted(shapes)}")
    stacks = [
        np.stack([values_of(volumes[key][i]).T for i in order], axis=-1) for key in sorted(volumes)
    ]
    data = np.stack(stacks, axis=-1) if len(stacks) > 1 else stacks[0]
    return data.astype(np.complex64 if data.dtype.kind == "c" else np.float32), affine


def _affine(number: int, places: list[Placement]) -> Floats:
    """Return the affine of slices in the order of their normal."""
    one = places[0]
    step = one.normal * (one.thickness or 1.0)
    if len(places) > 1:
        step = (places[-1].first - one.first) / (len(places) - 1)
    for i, place in enumerate(places):
        turned = max(np.abs(place.row - one.row).max(), np.abs(place.column - one.column).max())
        off = float(np.linalg.norm(place.first - one.first - i * step))
        if turned > 1e-3 or off > _EVEN or place.spacing != one.spacing:
            raise HeaderError(
                f"series {number}: slices are not parallel and evenly spaced, which NIfTI cannot "
                f"hold: slice {i} along the stack is {off:.3g} mm off; write --dicom instead"
            )
    if len(places) > 1 and float(np.linalg.norm(step)) < _EVEN:
        raise HeaderError(f"series {number}: {len(places)} slices lie at one position")
    affine = np.eye(4)
    affine[:3, 0] = one.row * one.spacing[0]
    affine[:3, 1] = one.column * one.spacing[1]
    affine[:3, 2], affine[:3, 3] = step, one.first
    in_ras: Floats = _TO_RAS @ affine
    return in_ras


def _beside(path: Path, number: int) -> Path:
    suffix = next((s for s in SUFFIXES if path.name.endswith(s)), path.suffix)
    return path.with_name(f"{path.name.removesuffix(suffix)}_series{number}{suffix}")
