"""Measured k-space as training scans: fastMRI (and MRD) files to samples, splits and cohorts.

A scan is in hybrid (x, ky) space without readout oversampling, whitened, scaled so that the mean
brightness of the object is about 1, and has maps; scale and maps come from its calibration lines
alone. `clean` equals `kspace`: no noise-free truth of a measurement exists, and losses against it
include the noise of the reference.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mnet.masks.line_plan import Bool, LinePlan
from mnet.physics import sense
from mnet.physics.coil_maps import coil_maps
from mnet.physics.fourier import inverse_fourier
from mnet.physics.prewhiten import apply
from training.data.cohort_index import Origin, claim
from training.data.corner_noise import known_noise
from training.data.corpus import Sample, save, scan_path
from training.data.volume import MeasuredVolume, naming, read_volume
from training.data.whitening import whitening

log = logging.getLogger(__name__)


def samples(
    volume: MeasuredVolume,
    acceleration: float,
    slices: Sequence[int] | None = None,
    *,
    whiten: bool = True,
) -> Iterator[Sample]:
    """Read slices (all where not given) as scans with maps for a nominal acceleration."""
    matrix = whitening(volume)[0] if whiten else None
    for number in range(volume.n_slices) if slices is None else slices:
        yield read_sample(volume, number, acceleration, matrix)


def read_sample(
    volume: MeasuredVolume, number: int, acceleration: float, matrix: Tensor | None
) -> Sample:
    """Read one slice as a scan, whitened by `matrix` (coils, coils) where there is one."""
    kspace = volume.hybrid(number)
    if matrix is not None:
        kspace = apply(matrix, kspace)
    with naming(volume.path):
        return to_sample(kspace, volume.acquirable, acceleration)


def to_sample(kspace: Tensor, acquirable: Bool, acceleration: float) -> Sample:
    """Scale one slice (coils, x, ky) and estimate its maps, both from the calibration lines."""
    plan = LinePlan.of(acquirable, acceleration)
    block = torch.from_numpy(plan.calibration)
    rms = kspace[..., block].abs().square().mean().sqrt()
    if not rms > 0:
        raise ValueError("calibration lines: expected signal, got nothing but zeros")
    kspace = kspace / rms  # raw values of 1e-6 are small for single precision
    csm = coil_maps(kspace[..., block], kspace.shape[-1])
    kspace = kspace / brightness(kspace[..., block], csm, plan)
    return Sample(
        kspace=kspace,
        clean=kspace.clone(),
        csm=csm,
        acquirable=acquirable,
        acceleration=acceleration,
        noise=known_noise(kspace, acquirable),
    )


def brightness(calibration: Tensor, csm: Tensor, plan: LinePlan) -> float:
    """Return the mean magnitude inside the object, of the image of the calibration lines alone.

    `calibration` (coils, x, L) and maps (coils, x, y); inside is where the maps are, and more than
    a twentieth of the brightest.
    """
    zero_filled = calibration.new_zeros(csm.shape)
    zero_filled[..., torch.from_numpy(plan.calibration)] = calibration
    image = sense.combine(inverse_fourier(zero_filled, dim=-1), csm).abs()
    local = functional.avg_pool2d(image[None, None], 5, stride=1, padding=2)[0, 0]
    inside = (local > 0.05 * local.max()) & csm.abs().any(0)
    if not inside.any():
        raise ValueError("calibration lines: expected an object, but ESPIRiT finds no coil maps")
    return float(image[inside].mean())


def split(
    files: Sequence[Path], parts: Mapping[str, float | Sequence[str]], seed: int = 0
) -> dict[str, list[Path]]:
    """Split files into named parts that share no subject.

    A part is a fraction of the subjects, drawn by `seed` whatever the order of the files, or a list
    of file names, with or without their suffix. The subject of a file is its `patient_id`, or its
    name. Lists are taken first; fractions are of the subjects that no list names.

    Raises
    ------
    ValueError
        If two parts share a subject, a list names a file that is not there, fractions exceed 1 or
        leave a part empty, or two files have the same name.
    """
    by_name = _by_name(files)
    subject = {name: read_volume(path).subject for name, path in by_name.items()}
    lists = {
        part: [Path(name).stem for name in wanted]
        for part, wanted in parts.items()
        if not isinstance(wanted, float | int)
    }
    fractions = {part: float(f) for part, f in parts.items() if isinstance(f, float | int)}
    owner: dict[str, str] = {}  # subject -> part
    for part, names in lists.items():
        for name in names:
            if name not in subject:
                raise ValueError(f"part {part!r}: no file {name!r} among the {len(files)} given")
            other = owner.setdefault(subject[name], part)
            if other != part:
                raise ValueError(
                    f"parts {other!r} and {part!r} share the subject {subject[name]!r} of {name}: "
                    "expected parts that share none"
                )
    drawn = _drawn(set(subject.values()) - set(owner), fractions, seed)
    chosen = lists | {
        part: [name for name in subject if drawn.get(subject[name]) == part] for part in fractions
    }
    return {part: [by_name[name] for name in sorted(set(chosen[part]))] for part in parts}


def _by_name(files: Sequence[Path]) -> dict[str, Path]:
    by_name = {Path(path).stem: Path(path) for path in files}
    if len(by_name) < len(files):
        names = [Path(path).stem for path in files]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"expected files of different names, got twice: {', '.join(twice)}")
    return by_name


def _drawn(free: set[str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Deal subjects to the parts that are fractions: subject -> part."""
    if any(f <= 0 for f in fractions.values()) or sum(fractions.values()) > 1 + 1e-9:
        raise ValueError(f"fractions: expected above 0 and at most 1 in all, got {fractions}")
    # by a hash, so that neither the order of files nor a generator's version matters
    order = sorted(free, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
    owner: dict[str, str] = {}
    total = 0.0
    for part, fraction in fractions.items():
        first = round(total * len(order))
        total += fraction
        mine = order[first : round(total * len(order))]
        if not mine:
            raise ValueError(f"part {part!r}: {fraction:g} of {len(order)} subjects leaves none")
        owner |= dict.fromkeys(mine, part)
    return owner


def write_cohort(
    folder: Path,
    files: Sequence[Path],
    accelerations: Sequence[float],
    *,
    margins: tuple[int, int] = (10, 5),
    step: int = 1,
    paired: bool = False,
    whiten: bool = True,
    need_header: bool = True,
) -> Iterator[Path]:
    """Write what is missing of a cohort of measured scans, as `training.data.corpus` lays them out.

    Every `step`-th slice from margins[0] to n - margins[1] of each volume, as SUNO takes them;
    scan i has acceleration i modulo the accelerations; `paired`, every slice comes once at each.
    `cohort.json` beside the scans says which they are. A scan of 15 coils, 320 x 368 is 85 MB.
    All files are opened before anything is written; gives the path of every scan as it is there.

    Raises
    ------
    ValueError
        If a file is unfit or leaves no slice, or the folder holds scans of other settings.
    """
    volumes = [
        read_volume(path, need_header=need_header) for _, path in sorted(_by_name(files).items())
    ]
    plan: list[tuple[MeasuredVolume, Origin]] = []
    for volume in volumes:
        chosen = range(margins[0], volume.n_slices - margins[1], step)
        if not chosen:
            raise ValueError(
                f"{volume.path}: expected more than {sum(margins)} slices for margins of "
                f"{margins[0]} and {margins[1]}, got {volume.n_slices}"
            )
        for number in chosen:
            for one in accelerations if paired else [accelerations[len(plan) % len(accelerations)]]:
                origin = Origin(
                    file=volume.path.name,
                    slice=number,
                    subject=volume.subject,
                    acceleration=float(one),
                )
                plan.append((volume, origin))
    claim(folder, [origin for _, origin in plan], whiten=whiten)
    return _write(folder, plan, whiten)


def _write(
    folder: Path, plan: Sequence[tuple[MeasuredVolume, Origin]], whiten: bool
) -> Iterator[Path]:
    matrix: Tensor | None = None
    whitened: MeasuredVolume | None = None  # the volume that `matrix` is of
    for number, (volume, origin) in enumerate(plan):
        path = scan_path(folder, number)
        if not path.exists():
            if whiten and whitened is not volume:
                matrix, source = whitening(volume)
                log.info("%s: whitening from %s", volume.path.name, source)
                whitened = volume
            save(read_sample(volume, origin.slice, origin.acceleration, matrix), path)
        yield path
