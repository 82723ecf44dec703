"""Compare samplers on any fully sampled k-space files, with deployed weights.

Every file is a subject. All samplers have the same budget and the same lines to choose from; the
image is that of the scanner's field of view and matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mnet.masks.line_plan import Bool, LinePlan
from mnet.physics.prewhiten import apply
from mnet.recon.modl import MoDL
from mnet.sampler.choosing import EXPECTED, Choosing
from mnet.score import comparison, image_quality
from mnet.score.comparison import Masks
from mnet.weight_files import load_weights
from training.data.volume import MeasuredVolume, read_volume
from training.data.whitening import whitening
from training.table.scored import Figures, Scored
from training.table.spec import Entry, Table, TestCohort
from training.table.table import table

DEFAULT_SAMPLER = "mnet_select"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What to evaluate."""

    paths: tuple[Path, ...]
    accelerations: tuple[float, ...] = (4.0, 8.0)
    n_slices: int | None = None  # central ones; all if None
    n_seeds: int = 3  # draws of random masks
    sampler: str = DEFAULT_SAMPLER  # weights
    reconstructor: str = "modl"  # weights


def evaluate_files(files: Files, device: torch.device) -> dict[str, Any]:
    """Return the table, and `files` with what was assumed of each.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, damaged or not fully sampled, or weights are of another kind.
    """
    if len(set(files.paths)) != len(files.paths):
        raise ValueError("a file is given twice: it would count as two subjects")
    sampler, _ = load_weights(files.sampler)
    model, _ = load_weights(files.reconstructor)
    if not isinstance(sampler, Choosing) or not isinstance(model, MoDL):
        raise ValueError(
            f"weights {files.sampler} and {files.reconstructor} are {type(sampler).__name__} and "
            f"{type(model).__name__}, expected {EXPECTED}, and MoDL"
        )
    volumes = [read_volume(path) for path in files.paths]
    parts: list[tuple[int, dict[tuple[str, str], list[Figures]], MeasuredVolume]] = []
    drawn: list[tuple[str, float, Bool, LinePlan]] = []
    notes = []
    for number, volume in enumerate(volumes):
        kspace, source = _kspace(volume, files.n_slices)
        notes.append(_about(volume, kspace, source))
        for acceleration in files.accelerations:
            scan = _plan(volume, kspace, acceleration, device)
            masks = comparison.sampler_masks(scan, sampler, range(files.n_seeds))
            drawn += [
                (name, acceleration, mask, scan.plan)
                for name, seeds in masks.items()
                for mask in seeds[0]
            ]
            rows = _score(scan, masks, model.to(device), f"{volume.path.name} R={acceleration:g}")
            parts.append((number, _figures(rows, acceleration), volume))
    return _table(files, parts, drawn) | {"files": notes}


def _table(
    files: Files,
    parts: Sequence[tuple[int, dict[tuple[str, str], list[Figures]], MeasuredVolume]],
    drawn: Sequence[tuple[str, float, Bool, LinePlan]],
) -> dict[str, Any]:
    scored: dict[tuple[Entry, int], Scored] = {}
    for number, figures, volume in parts:
        cohort = TestCohort(name=f"{number}-{volume.path.name}", subject=volume.subject, fold="all")
        for (sampler, method), slices in figures.items():
            entry = Entry(
                sampler=sampler,
                reconstructor=method,  # type: ignore[arg-type]
                masks="",
                weights=files.reconstructor if method == "modl" else "",
            )
            known = scored.get((entry, number))
            scans = list(known.scans.values()) if known else []
            numbered = dict(enumerate([*scans, *slices]))
            scored[entry, number] = Scored(
                entry=entry,
                cohort=cohort,
                scans=numbered,
                subjects=dict.fromkeys(numbered, volume.subject),
            )
    spec = Table(
        rows=tuple(dict.fromkeys(entry for entry, _ in scored)),
        cohorts=tuple(dict.fromkeys(s.cohort for s in scored.values())),
        deployed=DEFAULT_SAMPLER,
    )
    return table(spec, list(scored.values()), drawn)


def _kspace(volume: MeasuredVolume, n_slices: int | None) -> tuple[Tensor, str]:
    """Read whitened slices (slices, coils, x, ky), and where the whitening is from."""
    n = volume.n_slices if n_slices is None else min(n_slices, volume.n_slices)
    first = (volume.n_slices - n) // 2
    matrix, source = whitening(volume)
    slices = [volume.hybrid(number) for number in range(first, first + n)]
    kspace = torch.stack(slices if matrix is None else [apply(matrix, s) for s in slices])
    return kspace / kspace.abs().amax().clamp_min(1e-30), source  # single precision likes ones


def _plan(
    volume: MeasuredVolume, kspace: Tensor, acceleration: float, device: torch.device
) -> comparison.Volume:
    try:
        plan = LinePlan.of(volume.acquirable, acceleration)
    except ValueError as error:
        raise ValueError(f"{volume.path} at acceleration {acceleration:g}: {error}") from error
    return comparison.Volume(
        kspace=kspace.to(device), plan=plan, crop=volume.crop, matrix=volume.matrix
    )


def _score(scan: comparison.Volume, masks: Masks, model: MoDL, label: str) -> list[dict[str, Any]]:
    """Return the rows of `compare`, every slice with the figures of the other conventions too.

    Those are of the first draw of a random sampler.
    """
    with torch.inference_mode(), tqdm(unit="volume", desc=label, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        csm = comparison.maps(scan)
        kept: dict[tuple[str, str], Tensor] = {}
        rows = comparison.compare(scan, masks, model, csm=csm, progress=progress, keep=kept)
        truth = comparison.reference(scan, csm)
        for row in rows:
            image = kept[row["sampler"], row["reconstructor"]]
            for name, convention in (
                ("paper", image_quality.paper_compatible),
                ("fastmri", image_quality.fastmri_compatible),
            ):
                for key, values in convention(image, truth).items():
                    for entry, value in zip(row["per_slice"], values, strict=True):
                        entry[f"{name}_{key}"] = float(value)
    return rows


def _figures(
    rows: Sequence[dict[str, Any]], acceleration: float
) -> dict[tuple[str, str], list[Figures]]:
    return {
        (row["sampler"], row["reconstructor"]): [
            {
                **figures,
                "acceleration": acceleration,
                "acceleration_acquirable": row["acceleration"],
                "acceleration_encoded": row["acceleration_encoded"],
            }
            for figures in row["per_slice"]
        ]
        for row in rows
    }


def _about(volume: MeasuredVolume, kspace: Tensor, source: str) -> dict[str, Any]:
    return {
        "file": volume.path.name,
        "subject": volume.subject,
        "n_slices": kspace.shape[0],
        "n_coils": volume.n_coils,
        "encoded": list(kspace.shape[-2:]),
        "acquirable": int(volume.acquirable.sum()),
        "matrix": list(volume.matrix),
        "whitening": source,
        "assumed": list(volume.notes),
    }
