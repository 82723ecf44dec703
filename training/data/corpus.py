"""Scans on disk by cohort: drawn once, read by every step of training and by the evaluation.

A cohort is a number of simulated scans of some subjects. A scan is one safetensors file: `kspace`
(coils, x, ky) complex64 hybrid and noisy, `csm` of the same shape as the deployed pipeline
estimates them, from the calibration lines of the scan's nominal acceleration, `clean` the k-space
without noise, `acquirable` (ky,), and how loud the noise is. Real and imaginary parts are stored
last. Deterministic by (seed, number).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mnet.masks.line_plan import Bool, LinePlan
from mnet.physics.coil_maps import coil_maps
from training.data.images import Volume
from training.data.read_images import load_parts
from training.data.simulate import draw_size, simulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Scans of some subjects; scan i has acceleration i modulo the accelerations."""

    parts: tuple[str, ...]  # of training.data.sources, or files; each has an equal share
    n: int
    seed: int
    accelerations: tuple[float, ...] = (4.0, 8.0, 4.0, 8.0, 6.0)
    paired: bool = False  # every anatomy once at each acceleration, as a test wants it
    reference: int = 160  # rows of the reference size
    share: float = 0.4  # of scans of that size, all of whose rows are acquirable
    largest: int = 384
    phases: tuple[str, ...] = ()  # complex parts that lend some scans their smooth phase
    coils: tuple[int, ...] = ()  # sizes of arrays, as many of each; the usual mixture if not given


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One scan with maps from its calibration lines."""

    kspace: Tensor  # (coils, x, ky) complex64, hybrid, noisy
    clean: Tensor  # the same without noise
    csm: Tensor  # (coils, x, y), estimated
    acquirable: Bool  # (ky,)
    acceleration: float  # nominal; the maps are from its calibration lines
    # standard deviation of the complex noise of one whitened sample, in the unit of kspace; 0 where
    # it is not known
    noise: float = 0.0
    folded: bool = False  # known to overflow the field of view along ky
    n_calibration: int | None = None  # at most this many lines; about a third where not given

    def plan(self, acceleration: float | None = None) -> LinePlan:
        """Plan budget and calibration."""
        usual = LinePlan.of(self.acquirable, acceleration or self.acceleration)
        return usual if self.n_calibration is None else usual.narrowed(self.n_calibration)


def draw(volumes: list[Volume], cohort: Cohort, number: int) -> Sample:
    """Draw scan `number` of a cohort."""
    n = len(cohort.accelerations)
    rng = np.random.default_rng([cohort.seed, number // n if cohort.paired else number])
    size = draw_size(rng, cohort.reference, cohort.largest, cohort.share, cohort.coils)
    scan = simulate(_of_scan(volumes, cohort, number), size, rng)
    kspace = scan.measure(rng)
    acceleration = cohort.accelerations[number % n]
    plan = LinePlan.of(scan.acquirable, acceleration)
    calibration = kspace[..., torch.from_numpy(plan.calibration)]
    return Sample(
        kspace=kspace,
        clean=scan.signal,
        csm=coil_maps(calibration, kspace.shape[-1]),
        acquirable=scan.acquirable,
        acceleration=acceleration,
        noise=scan.noise,
        folded=scan.drawn.folded,
    )


def part_of(cohort: Cohort, number: int) -> str:
    """Return the part that scan `number` shows: in turn where scans are paired, else at random."""
    if cohort.paired:
        return cohort.parts[number // len(cohort.accelerations) % len(cohort.parts)]
    return cohort.parts[np.random.default_rng([cohort.seed, number, 1]).integers(len(cohort.parts))]


def _of_scan(volumes: list[Volume], cohort: Cohort, number: int) -> list[Volume]:
    """Choose the volumes of the part that a scan shows, and those that lend a phase."""
    if not cohort.parts:
        return volumes
    return [v for v in volumes if v.name in (part_of(cohort, number), *cohort.phases)]


def write(folder: Path, cohort: Cohort, images: Path) -> Iterator[Path]:
    """Draw what is missing of a cohort; gives the path of every scan as it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    volumes: list[Volume] = []
    for number in range(cohort.n):
        path = scan_path(folder, number)
        if not path.exists():
            volumes = volumes or load_parts(images, (*cohort.parts, *cohort.phases))
            save(draw(volumes, cohort, number), path)
        yield path


def scan_path(folder: Path, number: int) -> Path:
    """Return the file of a scan."""
    return folder / f"{number:05d}.safetensors"


def cohort_files(folder: Path) -> list[Path]:
    """Return the scans of a cohort in order.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no scans in {folder}: make the cohort first")
    return files


def save(sample: Sample, path: Path) -> None:
    """Write one scan; the file appears only when it is whole."""
    tensors = {
        "kspace": torch.view_as_real(sample.kspace).contiguous(),
        "clean": torch.view_as_real(sample.clean).contiguous(),
        "csm": torch.view_as_real(sample.csm).contiguous(),
        "acquirable": torch.from_numpy(sample.acquirable),
        "acceleration": torch.tensor(sample.acceleration),
        "noise": torch.tensor(sample.noise, dtype=torch.float64),
        "folded": torch.tensor(sample.folded),
    }
    part = path.with_suffix(".part")
    save_file(tensors, part)
    os.replace(part, path)


def load(path: Path) -> Sample:
    """Read one scan; ValueError if its file is damaged, or older than the noise in it."""
    try:
        t = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}; delete it to have it made again") from None
    if "noise" not in t:
        raise ValueError(
            f"{path} does not say how loud its noise is; delete it to have it made again"
        )
    return Sample(
        kspace=torch.view_as_complex(t["kspace"]),
        clean=torch.view_as_complex(t["clean"]),
        csm=torch.view_as_complex(t["csm"]),
        acquirable=t["acquirable"].numpy(),
        acceleration=float(t["acceleration"]),
        noise=float(t["noise"]),
        folded=bool(t["folded"]),
    )
