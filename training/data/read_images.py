"""Volumes from files: the known sources, and any .npz or NIfTI of one's own.

An .npz holds `images` (slices, rows, columns) or (slices, echoes, rows, columns), or `real`, `imag`
and `scale` of complex ones, and may hold `voxel_mm`, `meta` (JSON, of which `reslice` is read) and
`subjects`, the name of whose body every image is.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.images import Volume
from training.data.phantoms import bottles
from training.data.sources import Source, sources_of

SMOOTH = 6.0  # standard deviation in k-space lines of what counts as smooth phase


def load_parts(folder: Path, parts: Sequence[str]) -> list[Volume]:
    """Load the volumes of some parts: of the known sources, or files of `folder` by their names.

    A file of several subjects is no part; one of them is: `file:subject`.

    Raises
    ------
    FileNotFoundError
        If `folder` holds no file of a part.
    ValueError
        If a file holds several subjects and none is named, or not the one that is.
    """
    volumes = []
    for part in parts:
        known = sources_of(part)
        volumes += [_known(folder, source, part) for source in known] or [_other(folder, part)]
    return volumes


def _known(folder: Path, source: Source, part: str) -> Volume:
    if source.drawn:
        return Volume(data=bottles(0), reslice=False, name=part)
    content = _read(folder / f"{source.file}.npz")
    chosen = _images_of(content, source.member, source.file)
    if source.slices is not None:
        chosen = chosen[slice(*source.slices)]
    data, phase = _data(content, chosen)
    voxel, reslice = _geometry(content, source.voxel, source.reslice)
    return Volume(
        data=data,
        phase=phase,
        voxel=voxel,
        reslice=reslice,
        filled=source.filled,
        detail=source.detail,
        name=part,
    )


def _other(folder: Path, part: str) -> Volume:
    file, _, member = part.partition(":")
    for suffix in (".npz", ".nii", ".nii.gz"):
        path = folder / f"{file}{suffix}"
        if path.exists():
            return _own(path, part, member) if suffix == ".npz" else _nifti(path, part)
    raise FileNotFoundError(f"no {file}.npz, .nii or .nii.gz in {folder}, and no known source")


def _own(path: Path, part: str, member: str) -> Volume:
    content = _read(path)
    data, phase = _data(content, _images_of(content, member, path.name))
    voxel, reslice = _geometry(content, None, None)
    return Volume(data=data, phase=phase, voxel=voxel, reslice=reslice, name=part)


def _nifti(path: Path, part: str) -> Volume:
    import nibabel  # only who trains on NIfTI needs it

    image = nibabel.as_closest_canonical(nibabel.load(path))
    data = np.moveaxis(np.asarray(image.dataobj, dtype=np.float32), 2, 0)
    across, down, through = (float(v) for v in image.header.get_zooms()[:3])
    voxel = (through, across, down)
    return Volume(data=data, voxel=voxel, reslice=_fine(voxel), name=part)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


def _images_of(content: Mapping[str, NDArray[Any]], member: str, file: str) -> NDArray[np.intp]:
    """Return the numbers of the images of a subject; of all where the file is of one."""
    names = content.get("subjects", content.get("subject"))
    if names is None or names.ndim == 0:
        return np.arange(len(content["images"] if "images" in content else content["real"]))
    known = np.unique(names).tolist()
    if member not in known and (member or len(known) > 1):
        raise ValueError(
            f"{file} holds several subjects, expected one of {', '.join(known)} as file:subject, "
            f"got {member or 'none'}"
        )
    return np.flatnonzero(names == (member or known[0]))


def _data(
    content: Mapping[str, NDArray[Any]], chosen: NDArray[np.intp]
) -> tuple[NDArray[Any], NDArray[np.complex64] | None]:
    """Return magnitudes, and the smooth phase where the images are complex."""
    if "real" not in content:
        return content["images"][chosen], None
    scale = content["scale"][chosen, None, None]
    image = (content["real"][chosen] + np.complex64(1j) * content["imag"][chosen]) * scale
    return np.abs(image).astype(np.float32), smooth_phase(image)


def smooth_phase(image: NDArray[np.complexfloating[Any, Any]]) -> NDArray[np.complex64]:
    """Return exp(i phase) (..., rows, columns) of complex images at low resolution.

    Their k-space is weighted by a Gaussian, so that neither noise nor fine structure is left.
    """
    kspace = np.fft.fft2(image)
    for axis in (-2, -1):
        lines = np.fft.fftfreq(image.shape[axis]) * image.shape[axis]
        weight = np.exp(-((lines / SMOOTH) ** 2) / 2)
        kspace = kspace * (weight[:, None] if axis == -2 else weight)
    return np.exp(1j * np.angle(np.fft.ifft2(kspace))).astype(np.complex64)


def _geometry(
    content: Mapping[str, NDArray[Any]],
    voxel: tuple[float, float, float] | None,
    reslice: bool | None,
) -> tuple[tuple[float, float, float], bool]:
    """Return voxel and whether to reslice as the file says, else as told, else as voxels allow."""
    if "voxel_mm" in content:
        through, down, across = (float(v) for v in content["voxel_mm"])
        voxel = (through, down, across)
    voxel = voxel or (1.0, 1.0, 1.0)
    meta = json.loads(str(content["meta"])) if "meta" in content else {}
    stated = meta.get("reslice", reslice)
    if "real" in content:
        return voxel, False  # single slices
    return voxel, _fine(voxel) if stated is None else bool(stated)


def _fine(voxel: tuple[float, float, float]) -> bool:
    return max(voxel) < 2 * min(voxel)
