"""Labels: what the masks of a dictionary lose on every scan, and the ICD mask of some scans.

    python -m training.masks.labels --config FILE

A block of scans is one mask file, so that a stopped run goes on and workers share a cohort. Its
masks are the ICD masks, or the start where a scan has none; its arrays are

    dictionary_loss (scans, masks)   gradient (scans, ky)   prescan (scans, numbers)   start_loss
    acceleration   has_icd   loss   n_evaluations   redrawn_loss   redrawn_start_loss

each (scans,) where not said; `gradient` is d loss / d mask at the start, NaN beyond a scan's rows;
`prescan` is what a gate sees of the scan; `loss` is that of the ICD mask, whose search began at the
best of the start and the dictionary, and `n_evaluations` what start, dictionary and search cost
together; redrawn losses are of the same masks on the same scan with new noise, NaN without ICD: a
mask that fits the noise it was found with loses there.

Losses are relative L2 errors against the image of all lines, as scans are scored: against the
noise-free image, which only a simulation has, outer lines are worth less, and a sampler taught so
loses on the figure it is judged by.
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnet.masks.family import FAMILY, family
from mnet.masks.line_plan import Bool, LinePlan, centre_block
from mnet.physics import sense
from mnet.physics.coil_maps import coil_maps
from mnet.recon.conditions import conditions
from mnet.recon.modl import MoDL
from mnet.sampler.features import coil_features, features
from mnet.sampler.prescan import prescan_numbers
from mnet.weight_files import load_weights, read_card
from training.config import read_config
from training.data.corpus import Sample, load, scan_path
from training.data.mask_file import MaskFile, read_masks, write_masks
from training.masks.icd import GRADIENT_COST, Judge, Loss, descend, losses_of
from training.parallel import Backend, Task, run_all

Reconstructor = Callable[..., Tensor]  # kspace, csm, mask and, of MoDL, conditions -> image
Dictionary = Callable[[LinePlan], tuple[Bool, ...]]
Start = Callable[[LinePlan], Bool]
BLOCK = 20  # scans in a file
N_REFERENCE = 24  # lines of a reference scan, outside the budget
# plans (rows, of which unused at each edge, acceleration) that tell dictionaries apart
PLANS = ((160, 0, 4.0), (160, 0, 8.0), (160, 0, 6.0), (211, 9, 4.0), (211, 9, 8.0), (368, 18, 5.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Labels of one cohort."""

    scans: str  # folder of the cohort
    labels: str  # folder of its blocks
    n_scans: int
    weights: str = "modl"  # of the reconstructor
    n_rows: int = 40  # of the band in x that is reconstructed
    icd_every: int = 3  # every n-th scan of each acceleration in a block; 0 for none
    shortlist: int = 4  # of training.masks.icd.descend, as the next
    max_moves: int = 12
    n_calibration: int = 0  # with maps from a reference scan, at most so many lines; 0: a third
    batch: int = 4  # masks reconstructed at once; a CPU's caches hold no more
    n_workers: int = 2
    backend: Backend = "processes"
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Scans that are labelled together."""

    path: Path
    scans: tuple[int, ...]


def label_cohort(
    config: Config, dictionary: Dictionary = family, start: Start | None = None
) -> None:
    """Label what is missing of a cohort with the masks of a dictionary and of ICD from a start.

    Both are sent to other processes, so they must be functions or plain objects of modules. The
    start is `usual_start` if not given.

    Raises
    ------
    ValueError
        If there are labels from other settings, before anything is done.
    TaskError
        If some blocks failed.
    """
    start = start or usual_start
    config = replace(  # a worker may stand in another folder
        config,
        scans=str(Path(config.scans).resolve()),
        labels=str(Path(config.labels).resolve()),
        weights=str(Path(config.weights).resolve()) if "/" in config.weights else config.weights,
    )
    settings = label_settings(config, read_card(config.weights), dictionary, start)
    tasks = [
        Task(
            run=partial(label_block, config, dictionary, start, block),
            output=block.path,
            is_made=partial(is_labelled, settings, block.scans),
        )
        for block in blocks(config)
    ]
    run_all(
        tasks,
        n_workers=config.n_workers,
        backend=config.backend,
        name=f"labels {Path(config.labels).name}",
    )


def blocks(config: Config) -> list[Block]:
    """Return the blocks of a cohort."""
    numbers = range(config.n_scans)
    return [
        Block(
            path=Path(config.labels) / f"{first // BLOCK:05d}.npz",
            scans=tuple(numbers[first : first + BLOCK]),
        )
        for first in range(0, config.n_scans, BLOCK)
    ]


def label_settings(
    config: Config, card: dict[str, Any], dictionary: Dictionary, start: Start
) -> dict[str, Any]:
    """Return all that the labels of a scan depend on."""
    return {
        "reconstructor": card["sha256"],
        "dictionary": plan_digest(dictionary),
        "start": plan_digest(lambda plan: (start(plan),)),
        "n_rows": config.n_rows,
        "icd_every": config.icd_every,
        "shortlist": config.shortlist,
        "max_moves": config.max_moves,
        "n_calibration": config.n_calibration,
        "search": "from the best of start and dictionary",
    }


def plan_digest(dictionary: Dictionary) -> str:
    """Return the sha256 of the masks that a dictionary has for some plans."""
    digest = hashlib.sha256()
    for n, edge, acceleration in PLANS:
        rows = np.arange(n)
        masks = dictionary(LinePlan.of((rows >= edge) & (rows < n - edge), acceleration))
        digest.update(np.stack(masks).tobytes())
    return digest.hexdigest()


def usual_start(plan: LinePlan) -> Bool:
    """Return the member of the family that is never far from the best fixed one."""
    return family(plan)[FAMILY.index((2.0, 1.0))]


def is_labelled(settings: dict[str, Any], scans: tuple[int, ...], path: Path) -> bool:
    """Say whether a block holds some scans; ValueError if it was made with other settings."""
    return path.exists() and set(scans) <= set(read_masks(path, settings).masks)


def label_block(config: Config, dictionary: Dictionary, start: Start, block: Block) -> None:
    """Label the scans of a block and write its file."""
    model, card = load_weights(config.weights)
    model = model.to(config.device)
    seen: Counter[float] = Counter()
    found: list[dict[str, Any]] = []
    for number in block.scans:
        sample = read_scan(Path(config.scans), number, config.n_calibration)
        # counted by acceleration, which may follow the number in steps of their own
        with_icd = config.icd_every > 0 and seen[sample.acceleration] % config.icd_every == 0
        seen[sample.acceleration] += 1
        plan = sample.plan()
        masks, first = dictionary(plan), start(plan)
        found.append(label_scan(sample, number, model, masks, first, config, with_icd))
    chosen = dict(zip(block.scans, (entry.pop("mask") for entry in found), strict=True))
    widest = max(mask.size for mask in chosen.values())
    for entry in found:
        entry["gradient"] = _padded(entry["gradient"], widest)
    arrays = {key: np.stack([entry[key] for entry in found]) for key in found[0]}
    write_masks(block.path, chosen, label_settings(config, card, dictionary, start), arrays)


def label_scan(
    sample: Sample,
    number: int,
    model: Reconstructor,
    masks: tuple[Bool, ...],
    start: Bool,
    config: Config,
    with_icd: bool,
) -> dict[str, Any]:
    """Return a scan's mask, and its row of every array."""
    loss = scan_loss(sample, model, config.n_rows, config.device)
    start_loss, gradient = _slope(loss, start)
    judge = Judge(loss, config.batch)
    entry = {
        "mask": start,
        "dictionary_loss": judge(np.stack(masks)).astype(np.float32),
        "gradient": gradient,
        "prescan": prescan_of(sample),
        "start_loss": np.float32(start_loss),
        "loss": np.float32(start_loss),
        "n_evaluations": np.int64(judge.n_evaluations + 1 + GRADIENT_COST),
        "redrawn_loss": np.float32(np.nan),
        "redrawn_start_loss": np.float32(np.nan),
        "has_icd": np.bool_(with_icd),
        "acceleration": np.float32(sample.acceleration),
    }
    if not with_icd:
        return entry
    starts = np.stack([start, *masks])
    label = descend(
        judge, sample.plan(), starts, shortlist=config.shortlist, max_moves=config.max_moves
    )
    noisy = redrawn(sample, np.random.default_rng(number))
    again = scan_loss(noisy, model, config.n_rows, config.device)
    redrawn_loss, redrawn_start = losses_of(again, [label.mask, start], config.batch)
    return entry | {
        "mask": label.mask,
        "loss": np.float32(label.loss),
        "n_evaluations": np.int64(label.n_evaluations + 1 + GRADIENT_COST),
        "redrawn_loss": np.float32(redrawn_loss),
        "redrawn_start_loss": np.float32(redrawn_start),
    }


def read_scan(scans: Path, number: int, n_calibration: int = 0) -> Sample:
    """Read a scan; with `n_calibration` lines as one that has a reference scan beside it."""
    sample = load(scan_path(scans, number))
    if not n_calibration:
        return sample
    return with_reference(sample, n_calibration, np.random.default_rng([number, n_calibration]))


def redrawn(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return a scan with other noise of its level; the maps stay those of its calibration."""
    acquirable = torch.from_numpy(sample.acquirable)
    level = float((sample.kspace - sample.clean)[..., acquirable].abs().square().mean().sqrt())
    parts = rng.standard_normal((*sample.clean.shape, 2), dtype=np.float32)
    noise = torch.view_as_complex(torch.from_numpy(parts)) * (level / np.sqrt(2))
    return replace(sample, kspace=sample.clean + noise * acquirable)


def with_reference(sample: Sample, n_calibration: int, rng: np.random.Generator) -> Sample:
    """Return a scan of at most `n_calibration` calibration lines, its maps from a reference scan.

    Simulated, the reference scan has noise of its own; of a measured scan its lines are the scan's.
    Raises ValueError where N_REFERENCE lines have no room among the acquirable rows.
    """
    lines = redrawn(sample, rng).kspace
    block = centre_block(sample.acquirable, N_REFERENCE, sample.plan().center)
    maps = coil_maps(lines[..., torch.from_numpy(block)], lines.shape[-1])
    return replace(sample, csm=maps, n_calibration=n_calibration)


def prescan_of(sample: Sample) -> NDArray[np.float32]:
    """Return what a gate sees of a scan, (numbers,), from its calibration lines."""
    plan = sample.plan()
    lines = sample.kspace[None, ..., torch.from_numpy(plan.calibration)]
    seen: NDArray[np.float32] = prescan_numbers(features(lines), plan, coil_features(lines))[
        0
    ].numpy()
    return seen


def scan_loss(
    sample: Sample, model: Reconstructor, n_rows: int, device: str | torch.device = "cpu"
) -> Loss:
    """Return the loss of masks (batch, ky) on the rows of a scan that carry the most signal.

    `device` is where the model is; masks and losses stay where they are.
    """
    full = sense.adjoint(sample.kspace, sample.csm, torch.ones(sample.kspace.shape[-1]))
    energy = full.abs().square().sum(-1)
    n = min(n_rows, energy.numel())
    windows = torch.nn.functional.avg_pool1d(energy[None, None], n, stride=1)[0, 0]
    first = int(windows.argmax())
    kspace, csm, truth = (
        part.narrow(-2, first, n).to(device).contiguous()
        for part in (sample.kspace, sample.csm, full)
    )
    norm = truth.abs().square().sum().sqrt()
    # those of a mask that is never far from the best: what a mask loses shall not depend on how
    # noisy it makes the scan look
    usual = torch.from_numpy(usual_start(sample.plan())).float()[None]
    told = told_of(model, sample, usual)

    def loss(mask: Tensor) -> Tensor:
        n = mask.shape[0]
        more = () if told is None else (told.to(device).expand(n, -1),)
        image = model(
            kspace.expand(n, -1, -1, -1), csm.expand(n, -1, -1, -1), mask.to(device), *more
        )
        error = (image - truth).abs().square().sum((-2, -1)).sqrt() / norm
        return error.to(mask.device)

    return loss


def told_of(model: Reconstructor, sample: Sample, mask: Tensor) -> Tensor | None:
    """Return the conditions (1, 3) of a whole scan, where the network is one that is told.

    `mask` (1, ky); all on the processor.
    """
    if not isinstance(model, MoDL):
        return None
    return conditions(sample.kspace[None], sample.csm[None], mask)


def read_labels(folder: Path, settings: dict[str, Any] | None = None) -> MaskFile:
    """Read all blocks of a cohort as one; `settings`, where given, must be theirs.

    Raises
    ------
    FileNotFoundError
        If there are none.
    ValueError
        If a block is damaged, or they were made with different settings.
    """
    if not (paths := sorted(folder.glob("*.npz"))):
        raise FileNotFoundError(f"no labels in {folder}: run training.masks.labels")
    first = read_masks(paths[0], settings)
    parts = [first, *(read_masks(path, first.settings) for path in paths[1:])]
    widest = max(part.arrays["gradient"].shape[1] for part in parts)
    for part in parts:
        part.arrays["gradient"] = _padded(part.arrays["gradient"], widest)
    arrays = {key: np.concatenate([part.arrays[key] for part in parts]) for key in first.arrays}
    masks = {scan: mask for part in parts for scan, mask in part.masks.items()}
    return replace(first, masks=masks, arrays=arrays)


def _slope(loss: Loss, mask: Bool) -> tuple[float, NDArray[np.float32]]:
    """Return the loss of a mask and its gradient (ky,)."""
    variable = torch.from_numpy(mask).float()[None].requires_grad_()
    value = loss(variable).sum()
    (gradient,) = torch.autograd.grad(value, variable)
    return value.item(), gradient[0].numpy()


def _padded(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    gap = [(0, 0)] * (rows.ndim - 1) + [(0, width - rows.shape[-1])]
    return np.pad(rows, gap, constant_values=np.nan)


def main() -> None:
    """Label what is missing of a cohort."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    label_cohort(read_config(Config, parser.parse_args().config))


if __name__ == "__main__":
    main()
