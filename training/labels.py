"""Labels for MNet: how good the masks of a family are for each scan, and the ICD mask.

    python -m training.labels --config training/configs/labels.json --part 0 --parts 2

One JSON line per scan is appended to the label file, so that a stopped run goes on. Losses are
relative L2 errors of MoDL against the image of all lines, as scans are scored: against the
noise-free image, which only a simulation has, outer lines are worth less, and a sampler taught so
loses on the figure it is judged by. A label starts from the best member of the family, so that a
tie stays there.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnet import sense
from mnet.masks import Bool, Lines
from mnet.modl import MoDL
from mnet.sampler import family
from mnet.weights import load_weights
from training.config import read_config
from training.corpus import Sample, load
from training.icd import Loss, descend


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run."""

    corpus: str = "runs/corpus"
    labels: str = "runs/labels"
    weights: str = "mnet/weights/modl"
    split: str = "train"
    n_scans: int = 400
    first: int = 0
    n_rows: int = 64  # of the band in x that is reconstructed
    icd_every: int = 2  # every n-th scan gets an ICD mask too; 0 for none
    shortlist: int = 8
    max_moves: int = 12
    largest: int = 368  # scans with more rows are skipped


def scan_loss(sample: Sample, model: MoDL, n_rows: int) -> Loss:
    """Return the loss of masks on the rows of a scan that carry the most signal."""
    full = sense.adjoint(sample.kspace, sample.csm, torch.ones(sample.kspace.shape[-1]))
    energy = full.abs().square().sum(-1)
    n = min(n_rows, energy.numel())
    windows = torch.nn.functional.avg_pool1d(energy[None, None], n, stride=1)[0, 0]
    start = int(windows.argmax())
    cut = slice(start, start + n)
    kspace, csm, truth = sample.kspace[:, cut], sample.csm[:, cut], full[cut]
    norm = truth.abs().square().sum().sqrt()

    def loss(mask: Tensor) -> Tensor:
        n_masks = mask.shape[0]
        image = model(kspace.expand(n_masks, -1, -1, -1), csm.expand(n_masks, -1, -1, -1), mask)
        return (image - truth).abs().square().sum((-2, -1)).sqrt() / norm

    return loss


def label(sample: Sample, lines: Lines, model: MoDL, config: Config, icd: bool) -> dict[str, Any]:
    """Return the losses of the family, and perhaps an ICD mask."""
    loss = scan_loss(sample, model, config.n_rows)
    members = family(lines)
    with torch.no_grad():
        losses = np.array([float(loss(_float(member))[0]) for member in members])
    best = members[int(losses.argmin())]
    entry: dict[str, Any] = {"losses": [round(float(x), 6) for x in losses]}
    if icd:
        found = descend(
            loss,
            lines,
            best,
            shortlist=config.shortlist,
            max_moves=config.max_moves,
            rng=np.random.default_rng(0),
        )
        entry |= {
            "mask": np.flatnonzero(found.mask).tolist(),
            "loss": round(found.loss, 6),
            "n_evaluations": found.n_evaluations,
        }
    return entry


def _float(mask: Bool) -> Tensor:
    return torch.from_numpy(mask).float()[None]


def main() -> None:
    """Label what is missing of one part of the scans."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = read_config(Config, options.config)
    model, card = load_weights(config.weights)
    if not isinstance(model, MoDL):
        raise TypeError(f"{config.weights} are not MoDL's")
    folder = Path(config.labels)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{config.split}-{options.part}.jsonl"
    written = path.read_text().splitlines() if path.exists() else []
    done = {json.loads(line)["scan"] for line in written}
    started, n_new = time.monotonic(), 0
    for number in range(config.first + options.part, config.n_scans, options.parts):
        if number in done:
            continue
        sample = load(Path(config.corpus) / config.split / f"{number:05d}.safetensors")
        if sample.kspace.shape[-1] > config.largest:
            continue
        icd = config.icd_every > 0 and (number // options.parts) % config.icd_every == 0
        entry = label(sample, sample.lines(), model, config, icd)
        entry |= {"acceleration": sample.acceleration, "modl": card["sha256"][:16]}
        entry = {"scan": number} | entry
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        n_new += 1
        print(f"{number}: {(time.monotonic() - started) / n_new:.1f} s per scan", flush=True)


if __name__ == "__main__":
    main()
