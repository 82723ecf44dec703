"""Reconstruct and score every test scan with every row's masks; what is done is not done again.

The image of a scan is the magnitude on the full encoded field of view, the reference that of all
its lines, combined with the same maps. Scores lie in `table/scores`, one JSON file for a row and a
cohort, which follows from the weights, the scan and the mask: a change of any of them is scored
anew, and a run that is stopped goes on.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnet.masks.line_plan import Bool
from mnet.physics import sense
from mnet.physics.coil_maps import coil_maps
from mnet.physics.fourier import inverse_fourier
from mnet.recon import linear
from mnet.score import image_quality
from mnet.weight_files import load_weights
from training.data.corpus import Sample, load, scan_path
from training.table.jobs import Job, read_checked
from training.table.scored import Figures
from training.table.spec import NETWORKS, Entry

Model = Callable[[Tensor, Tensor, Tensor], Tensor]  # kspace, csm, mask -> image
SAVE_EVERY = 20.0  # seconds


def reconstructor(entry: Entry, weights: str, device: torch.device) -> Model:
    """Return `model(kspace, csm, mask) -> image` of a row."""
    match entry.reconstructor:
        case "zero_filled":
            return linear.zero_filled
        case "cg_sense":
            return linear.cg_sense
    model, card = load_weights(weights)
    found = card["architecture"]["class"]
    if found != NETWORKS[entry.reconstructor]:
        raise ValueError(
            f"weights {weights} are a {found}, but row {entry.sampler} asks for "
            f"{NETWORKS[entry.reconstructor]}"
        )
    module: nn.Module = model.to(device)
    return module


def redraw(sample: Sample, number: int) -> Sample:
    """Return the same scan with other noise of the same strength, and maps that follow from it."""
    if torch.equal(sample.kspace, sample.clean):
        raise ValueError(f"scan {number} is a measurement: only simulated noise can be redrawn")
    rows = torch.from_numpy(sample.acquirable)
    strength = (sample.kspace - sample.clean)[..., rows].abs().square().mean().sqrt()
    generator = torch.Generator().manual_seed(number)
    noise = torch.randn(sample.kspace.shape, dtype=torch.complex64, generator=generator)
    kspace = sample.clean + strength * noise * rows
    calibration = kspace[..., torch.from_numpy(sample.plan().calibration)]
    return Sample(
        kspace=kspace,
        clean=sample.clean,
        csm=coil_maps(calibration, kspace.shape[-1]),
        acquirable=sample.acquirable,
        acceleration=sample.acceleration,
        noise=sample.noise,
        folded=sample.folded,
    )


@torch.inference_mode()
def images(
    sample: Sample, mask: Bool, model: Model, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return magnitudes (1, x, y): reconstruction, reference, and root sum of squares."""
    kspace, csm = sample.kspace[None].to(device), sample.csm[None].to(device)
    coils = inverse_fourier(kspace, dim=-1)
    image = model(kspace, csm, torch.from_numpy(mask)[None].to(kspace.real))
    rss = coils.abs().square().sum(1).sqrt()
    return image.abs(), sense.combine(coils, csm).abs(), rss


def figures(image: Tensor, reference: Tensor, rss: Tensor) -> Figures:
    """Score one slice by `image_quality.score` and by the conventions of two communities."""
    found = image_quality.score(image, reference, rss).mean()
    for name, convention in (
        ("paper", image_quality.paper_compatible),
        ("fastmri", image_quality.fastmri_compatible),
    ):
        values = convention(image, reference)
        found |= {f"{name}_{key}": float(value.mean()) for key, value in values.items()}
    return found


def score_job(
    job: Job, device: torch.device, progress: Callable[[int], None] | None = None
) -> dict[int, Figures]:
    """Return the figures of every scan; reconstructs what is not in the cache.

    Besides those of `figures`: the nominal acceleration, and the actual one on acquirable and on
    encoded rows. `progress` is told how many more scans are ready.
    """
    masks = read_checked(job)
    folder = job.study / "scans" / job.cohort.name
    done = _read(job.cache)
    marks = {n: _mark(scan_path(folder, n), mask) for n, mask in masks.items()}
    missing = [n for n in masks if done.get(str(n), {}).get("mark") != marks[n]]
    if progress is not None:
        progress(len(masks) - len(missing))
    if not missing:
        return _figures(done, masks)
    model = reconstructor(job.entry, job.weights, device)
    saved = time.monotonic()
    for number in missing:
        sample = load(scan_path(folder, number))
        if job.entry.noise == "redrawn":
            sample = redraw(sample, number)
        plan = sample.plan()
        done[str(number)] = {
            "mark": marks[number],
            "acceleration": sample.acceleration,
            "acceleration_acquirable": float(plan.acquirable.sum() / plan.n_lines),
            "acceleration_encoded": plan.acquirable.size / plan.n_lines,
            **figures(*images(sample, masks[number], model, device)),
        }
        if time.monotonic() - saved > SAVE_EVERY:
            _write(job.cache, job.key, done)
            saved = time.monotonic()
        if progress is not None:
            progress(1)
    _write(job.cache, job.key, done)
    return _figures(done, masks)


def _figures(done: Mapping[str, Any], masks: Mapping[int, Bool]) -> dict[int, Figures]:
    return {n: {k: v for k, v in done[str(n)].items() if k != "mark"} for n in masks}


def _mark(scan: Path, mask: Bool) -> str:
    """Name a scan with a mask by their content; the start of a scan tells it from any other."""
    with scan.open("rb") as file:
        digest = hashlib.sha256(file.read(1 << 16))
    digest.update(np.packbits(mask).tobytes())
    return f"{scan.stat().st_size}-{digest.hexdigest()[:16]}"


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        scans: dict[str, Any] = json.loads(path.read_text())["scans"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no scores: {error!r}; delete it to score again") from error
    return scans


def _write(path: Path, key: Mapping[str, Any], scans: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps({"key": key, "scans": scans}, indent=1) + "\n")
    os.replace(part, path)
