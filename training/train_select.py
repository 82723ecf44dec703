"""Train MNet-select on labels: how much worse each vetted mask is, and what single swaps gain.

    python -m training.train_select --config FILE

With the losses l_k of the vetted masks on a scan, that of the best fixed mask l_f, and means over
training scans of one acceleration, the networks learn what the scan adds to the means,

    sum_k w_k huber(output_k - (t_k - mean t_k)),   t_k = clip(log l_k / l_f),   w_k ~ e^(-r_k / n)

where r_k is the mean relative loss of a mask: hopeless masks count nothing. Apart from them, from a
detached embedding, the value of every row beside the others of a mask is regressed on the gradient
of the loss. How sure a prediction must be to leave the best fixed mask, and how many swaps follow,
is set on validation scans of another subject.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from mnet.features import coil_features, features
from mnet.masks import Bool, Lines
from mnet.sampler import Body
from mnet.select import SCALE, MNetSelect, Table, swap, swap_table
from mnet.weights import load_weights, save_weights
from training.card import provenance
from training.config import read_config
from training.corpus import load, scan_path
from training.labels import scan_loss
from training.mask_file import read_masks


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run."""

    scans: str  # folder of cohorts
    labels: str  # folder of label files by cohort
    patterns: str  # JSON file of the vetted masks beside the family
    cohorts: tuple[str, ...]
    validation: tuple[str, ...]
    parts: tuple[str, ...] = ()
    reconstructor: str  # weights that the labels were made with
    weights: str  # where they go
    n_channels: int = 0  # of the CNN beside the numbers; 0 for none
    n_embedding: int = 32
    n_members: int = 8  # networks whose predictions are averaged
    n_epochs: int = 120
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    nearness: float = 0.05  # mean relative loss that makes a mask matter e times less
    clip: float = 0.3  # of the logarithm of a ratio of losses
    value_weight: float = 0.1
    margins: tuple[float, ...] = (0.0, 0.002, 0.004, 0.007, 0.01, 0.015, 0.02, 0.03)
    swaps: tuple[int, ...] = (0, 1, 2, 4)
    n_rows: int = 40
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """One labelled scan."""

    path: Path
    lines: Lines
    z: Tensor  # (1, 3, x, L)
    coils: Tensor  # (1, 19)
    image: Tensor  # what the body sees, (channels, 64, L)
    known: Tensor  # (n_known,)
    losses: Tensor  # (masks,)
    target: Tensor  # (masks,) what the scan adds to the mean log ratios, in units of SCALE
    table: Tensor  # (n_table, ky) of the best fixed mask
    value: Tensor  # (ky,) standardised, of every movable row beside the others of that mask
    movable: Tensor  # (ky,)


def read_examples(config: Config, cohorts: Sequence[str], body: Body) -> list[Example]:
    """Read labels, and of their scans the calibration lines alone."""
    examples = []
    for cohort in cohorts:
        blocks = sorted((Path(config.labels) / cohort).glob("*.npz"))
        if not blocks:
            raise FileNotFoundError(f"no labels in {Path(config.labels) / cohort}")
        for block in tqdm(blocks, desc=f"labels of {cohort}"):
            found = read_masks(block)
            for i, (number, mask) in enumerate(found.masks.items()):
                path = scan_path(Path(config.scans) / cohort, number)
                arrays = {name: values[i] for name, values in found.arrays.items()}
                examples.append(_example(path, mask, arrays, body))
    return examples


def _example(path: Path, start: Bool, arrays: dict[str, NDArray[Any]], body: Body) -> Example:
    sample = load(path)
    lines = sample.lines()
    calibration = sample.kspace[None, ..., torch.from_numpy(lines.calibration)]
    z, coils = features(calibration), coil_features(calibration)
    image, known = body.inputs(z, lines, coils)
    value = -torch.from_numpy(arrays["gradient"][: start.size]).float()
    movable = torch.from_numpy(lines.movable)
    spread = value[movable].abs().mean().clamp_min(1e-12)
    return Example(
        path=path,
        lines=lines,
        z=z,
        coils=coils,
        image=image[0],
        known=known[0],
        losses=torch.from_numpy(arrays["dictionary_loss"]).float(),
        target=torch.zeros(0),
        table=torch.from_numpy(swap_table(lines, start)),
        value=torch.where(movable, value / spread, 0.0),
        movable=movable,
    )


def relative(examples: Sequence[Example]) -> Tensor:
    """Return how much worse every mask is than the best one of its scan: (scans, masks)."""
    losses = torch.stack([e.losses for e in examples])
    return losses / losses.min(1, keepdim=True).values - 1


def mean_table(examples: Sequence[Example], n_least: int = 8) -> Table:
    """Return, by acceleration, the mean relative loss of every vetted mask."""
    accelerations = np.array([nominal(e.lines) for e in examples])
    losses = relative(examples).numpy()
    table: Table = {"acceleration": [], "loss": []}
    for acceleration in sorted(set(accelerations.tolist())):
        chosen = losses[accelerations == acceleration]
        if len(chosen) >= n_least:
            table["acceleration"].append(acceleration)
            table["loss"].append([round(float(x), 5) for x in chosen.mean(0)])
    if not table["loss"]:
        raise ValueError(f"{len(examples)} labels, none of {n_least} scans at one acceleration")
    return table


def nominal(lines: Lines) -> float:
    """Return the acceleration of a plan as its table names it."""
    return float(round(float(lines.acquirable.sum()) / lines.n_lines))


def batches(
    examples: Sequence[Example], size: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Draw batches of scans with equally many calibration lines, in random order."""
    groups: dict[int, list[int]] = {}
    for i in rng.permutation(len(examples)):
        groups.setdefault(examples[i].image.shape[-1], []).append(int(i))
    drawn = [
        group[first : first + size]
        for group in groups.values()
        for first in range(0, len(group), size)
    ]
    for i in rng.permutation(len(drawn)):
        yield drawn[i]


def with_targets(examples: Sequence[Example], model: MNetSelect, clip: float) -> list[Example]:
    """Return training examples with what the networks shall learn of them."""
    accelerations = np.array([nominal(e.lines) for e in examples])
    ratios = []
    for example in examples:
        fixed = int(model.mean_losses(example.lines).argmin())
        ratios.append(torch.log(example.losses / example.losses[fixed]).clamp(-clip, clip))
    logs = torch.stack(ratios)
    found = []
    for example, log, acceleration in zip(examples, logs, accelerations, strict=True):
        mean = logs[torch.from_numpy(accelerations == acceleration)].mean(0)
        found.append(replace(example, target=(log - mean) / SCALE))
    return found


def train(config: Config) -> dict[str, Any]:
    """Run; returns the validation figures."""
    torch.manual_seed(config.seed)
    body = Body(config.n_channels, config.n_embedding)
    examples = read_examples(config, config.cohorts, body)
    held_out = read_examples(config, config.validation, body)
    patterns = json.loads(Path(config.patterns).read_text())
    model = MNetSelect(
        [pattern["pattern"] for pattern in patterns],
        mean_table(examples),
        config.n_channels,
        config.n_embedding,
        config.n_members,
    )
    examples = with_targets(examples, model, config.clip)
    known = torch.stack([e.known for e in examples])
    for member in range(config.n_members):
        model.bodies[member].shift.copy_(known.mean(0))
        model.bodies[member].spread.copy_(known.std(0).clamp_min(1e-6))
        _train_member(model, member, examples, config)
    model.eval()
    figures = settle(model, held_out, config)
    card = {
        "training": asdict(config),
        "n_scans": len(examples),
        "vetted": ["family"] * (len(model.vetted(examples[0].lines)) - len(patterns))
        + [pattern["name"] for pattern in patterns],
        "validation": figures,
        "reconstructor": load_weights(config.reconstructor)[1]["sha256"],
        **provenance(config.parts),
    }
    save_weights(model, Path(config.weights), card)
    return figures


def _train_member(
    model: MNetSelect, member: int, examples: Sequence[Example], config: Config
) -> None:
    parts = (model.bodies[member], model.choose[member], model.value[member])
    parameters = [p for part in parts for p in part.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.n_epochs)
    rng = np.random.default_rng([config.seed, member])
    model.train()
    for epoch in range(config.n_epochs):
        total = 0.0
        for batch in batches(examples, config.batch, rng):
            loss = batch_loss(model, member, [examples[i] for i in batch], config)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            total += float(loss.detach()) * len(batch) / len(examples)
        schedule.step()
        if (epoch + 1) % 40 == 0:
            print(f"member {member}, epoch {epoch + 1}: {total:.4f}", flush=True)


def batch_loss(
    model: MNetSelect, member: int, examples: Sequence[Example], config: Config
) -> Tensor:
    """Return the loss of one network on scans with equally many calibration lines."""
    embedding = model.bodies[member].embedding(
        torch.stack([e.image for e in examples]), torch.stack([e.known for e in examples])
    )
    mean = torch.from_numpy(np.stack([model.mean_losses(e.lines) for e in examples]))
    near = torch.exp(-mean.to(embedding) / config.nearness)
    near = near / near.sum(1, keepdim=True)
    target = torch.stack([e.target for e in examples])
    misfit = functional.smooth_l1_loss(model.choose[member](embedding), target, reduction="none")
    loss = (near * misfit).sum(1).mean()
    if config.value_weight > 0:
        width = max(e.value.numel() for e in examples)
        table, value, movable = (
            torch.stack([functional.pad(part, (0, width - part.shape[-1])) for part in parts])
            for parts in zip(*((e.table, e.value, e.movable) for e in examples), strict=True)
        )
        misfit = functional.smooth_l1_loss(
            model.value[member](table, embedding.detach()), value, reduction="none"
        )
        loss = loss + config.value_weight * (misfit * movable).sum() / movable.sum()
    return loss


@torch.no_grad()
def settle(model: MNetSelect, examples: Sequence[Example], config: Config) -> dict[str, Any]:
    """Set margin and swaps to the surest gain on validation scans: one standard error counts."""
    fixed = [int(model.mean_losses(e.lines).argmin()) for e in examples]
    base = np.array([float(e.losses[i]) for e, i in zip(examples, fixed, strict=True)])
    figures: dict[str, Any] = {"best_single_nrmse": round(float(base.mean()), 4)}
    figures["best vetted"] = _gain(np.array([float(e.losses.min()) for e in examples]), base)
    predicted = [model.relative_losses(e.z, e.lines, e.coils).mean(0)[0] for e in examples]
    choices: dict[float, list[int]] = {}
    for margin in config.margins:
        choices[margin] = [
            int(p.argmin()) if float(p[i] - p.min()) > margin else i
            for p, i in zip(predicted, fixed, strict=True)
        ]
        chosen = [float(e.losses[i]) for e, i in zip(examples, choices[margin], strict=True)]
        figures[f"margin {margin:g}"] = _gain(np.array(chosen), base)
    stay = float("inf")
    choices[stay] = fixed
    figures["margin inf"] = _gain(base, base)
    margin = min(choices, key=lambda m: _surely(figures[f"margin {m:g}"]))
    model.margin = margin
    best_swaps = 0
    modl = load_weights(config.reconstructor)[0]
    sure = _surely(figures[f"margin {margin:g}"])
    swapped: dict[int, list[float]] = {n: [] for n in config.swaps if n}
    for example, choice in zip(tqdm(examples, desc="swaps"), choices[margin], strict=True):
        loss = scan_loss(load(example.path), modl, config.n_rows)
        mask = model.vetted(example.lines)[choice]
        values = model.line_values(example.z, example.lines, example.coils, mask).mean(0)[0]
        for n in swapped:
            moved = swap(mask, example.lines, values.numpy(), n)
            swapped[n].append(float(loss(torch.from_numpy(moved).float()[None])[0]))
    for n, losses in swapped.items():
        figures[f"{n} swaps"] = _gain(np.array(losses), base)
        if _surely(figures[f"{n} swaps"]) < sure:
            sure, best_swaps = _surely(figures[f"{n} swaps"]), n
    model.n_swaps = best_swaps
    model.config |= {"margin": min(margin, 1e9), "n_swaps": best_swaps}
    return figures | {"margin": min(margin, 1e9), "n_swaps": best_swaps, "n_scans": len(examples)}


def _gain(losses: NDArray[np.float64], base: NDArray[np.float64]) -> dict[str, float]:
    percent = 100 * (losses / base - 1)
    error = percent.std() / np.sqrt(percent.size)
    return {"percent": round(float(percent.mean()), 3), "standard_error": round(float(error), 3)}


def _surely(figure: dict[str, float]) -> float:
    return figure["percent"] + figure["standard_error"]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    torch.set_num_threads(1)
    print(json.dumps(train(read_config(Config, parser.parse_args().config)), indent=1))


if __name__ == "__main__":
    main()
