"""The figures of a study: which scans they show, and what their captions say."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mnet.score import image_quality
from training.data.corpus import load, scan_path
from training.table.figures import (
    ERROR_GAIN,
    LINEAR,
    Shown,
    draw_curves,
    draw_distribution,
    draw_masks,
    draw_reconstructions,
    name,
    read_log,
)
from training.table.jobs import Job, read_checked
from training.table.scored import Scored
from training.table.scores import images, reconstructor
from training.table.spec import Entry, Table

Picture = tuple[Path, str]  # PNG file and caption
ORDER = (
    "icd_oracle",
    "mnet_select",
    "mnet_experts",
    "mnet",
    "mnet_fixed_unet",
    "suno_nn",
    "shuffled",
    "best_single",
    "population",
    "loupe",
    "variable_density",
    "equispaced",
    "uniform_random",
    "low_pass",
)
N_COLUMNS = 6  # reconstructions beside the reference


def draw_study(
    spec: Table, study: Path, scored: Sequence[Scored], folder: Path, device: torch.device
) -> list[Picture]:
    """Draw masks, reconstructions, paired differences and, where there are logs, training curves.

    The scan shown is that of the first cohort whose error under the deployed sampler is the median.
    """
    judged = [s for s in scored if s.entry.judge == _judge(spec)]
    cohort = next(s.cohort for s in judged if s.entry.sampler == spec.deployed)
    here = {s.entry.sampler: s for s in judged if s.cohort == cohort}
    here = {sampler: here[sampler] for sampler in _ordered(here)}
    pictures = []
    for acceleration in sorted(here[spec.deployed].accelerations):
        pictures += _scan(study, here, spec.deployed, acceleration, folder, device)
        pictures.append(_distribution(spec, judged, acceleration, folder))
    return pictures + _curves(study, folder)


def _judge(spec: Table) -> tuple[str, bool, str]:
    """Return under which reconstructor the figures are: MoDL where there is one."""
    judges = [entry.judge for entry in spec.rows if entry.sampler == spec.deployed]
    return min(judges, key=lambda judge: (judge[0] != "modl", judge[1], judge[2] != "measured"))


def _ordered(samplers: Sequence[str] | dict[str, Scored]) -> list[str]:
    known = [sampler for sampler in ORDER if sampler in samplers]
    return known + [sampler for sampler in samplers if sampler not in known]


def _scan(
    study: Path,
    here: dict[str, Scored],
    deployed: str,
    acceleration: float,
    folder: Path,
    device: torch.device,
) -> list[Picture]:
    scans = here[deployed].scans
    candidates = [n for n, found in scans.items() if found["acceleration"] == acceleration]
    by_error = sorted(candidates, key=lambda n: scans[n]["nrmse"])
    number = by_error[len(by_error) // 2]
    cohort = here[deployed].cohort
    sample = load(scan_path(study / "scans" / cohort.name, number))
    masks = {
        sampler: read_checked(Job(study=study, entry=s.entry, cohort=cohort))[number]
        for sampler, s in here.items()
    }
    plan = sample.plan()
    about = (
        f"Scan {number} of {cohort.name} (1 subject), acceleration {acceleration:g}: "
        f"{plan.n_lines} of {plan.acquirable.sum()} acquirable lines, "
        f"{plan.calibration.sum()} of them calibration."
    )
    path = folder / f"masks-{acceleration:g}.png"
    draw_masks(path, masks, plan)
    pictures = [(path, f"Masks. {about}")]
    shown = []
    truth = None
    for sampler in _columns(here, deployed):
        s = here[sampler]
        job = Job(study=study, entry=s.entry, cohort=cohort)
        model = reconstructor(s.entry, job.weights, device)
        image, reference, _ = images(sample, masks[sampler], model, device)
        truth = reference
        scaled = (image * image_quality.fit_scale(image, reference))[0].cpu().numpy()
        title = f"{name(sampler)}\n{name(s.entry.reconstructor)}"
        shown.append(Shown(title=title, image=scaled, figures=s.scans[number]))
    if truth is not None:
        path = folder / f"reconstructions-{acceleration:g}.png"
        draw_reconstructions(path, truth[0].cpu().numpy(), shown)
        caption = (
            f"Reconstructions, detail, and errors x {ERROR_GAIN} in the same window. {about} "
            "The scan has the median error of the deployed sampler."
        )
        pictures.append((path, caption))
    return pictures


def _columns(here: dict[str, Scored], deployed: str) -> list[str]:
    wanted = (
        deployed,
        "best_single",
        "icd_oracle",
        "loupe",
        "variable_density",
        "uniform_random",
        "low_pass",
    )
    return [sampler for sampler in dict.fromkeys(wanted) if sampler in here][:N_COLUMNS]


def _distribution(
    spec: Table, judged: Sequence[Scored], acceleration: float, folder: Path
) -> Picture:
    base = {s.cohort: s for s in judged if s.entry.sampler == spec.baseline}
    found: dict[str, dict[str, list[float]]] = {}
    for s in judged:
        if s.cohort not in base or s.entry.sampler == spec.baseline:
            continue
        label = s.cohort.subject or s.cohort.name
        if not s.cohort.held_out:
            label += " (subject seen in training)"
        ours, theirs = s.nrmse(acceleration), base[s.cohort].nrmse(acceleration)
        if ours:
            relative = 100 * (np.concatenate(ours) / np.concatenate(theirs) - 1)
            found.setdefault(s.entry.sampler, {})[label] = relative.tolist()
    path = folder / f"differences-{acceleration:g}.png"
    ordered = {sampler: found[sampler] for sampler in _ordered(list(found))}
    draw_distribution(path, ordered, spec.baseline)
    n = len({name for s in judged for name in s.subjects.values()})
    entry: Entry = judged[0].entry
    return path, (
        f"Paired differences of NRMSE to {name(spec.baseline)} under {name(entry.reconstructor)} "
        f"at acceleration {acceleration:g}, one point per scan, {n} subjects, each in its own "
        f"panel. Left of zero is better; the scale is logarithmic beyond {LINEAR} %."
    )


def _curves(study: Path, folder: Path) -> list[Picture]:
    logs = {path.parent.name: read_log(path) for path in sorted(study.glob("**/log.jsonl"))}
    logs = {run: log for run, log in logs.items() if len(log) > 1}
    if not logs:
        return []
    path = folder / "curves.png"
    draw_curves(path, logs)
    return [(path, f"Training: {', '.join(logs)}.")]
