"""Train MNet-select on labels: how much worse each vetted mask is, and what single swaps gain.

    python -m training.fit.train_select --config FILE

With the losses l_k of the vetted masks on a scan, that of the best fixed mask l_f, and means over
training scans of one acceleration, the networks learn what the scan adds to the means,

    sum_k w_k huber(output_k - (t_k - mean t_k)),   t_k = clip(log l_k / l_f),   w_k ~ e^(-r_k / n)

where r_k is the mean relative loss of a mask: hopeless masks count nothing. Apart from them, from a
detached embedding, the value of every row beside the others of a mask is regressed on the gradient
of the loss. The best fixed mask is the one with the lowest mean over cohorts, the validation's
among them. How sure a prediction must be to leave it is set for every stratum of scans, on several
cohorts that were not learned from: the validation scans, and training cohorts that a model trained
on the others predicts. How many swaps follow is set on the validation scans.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mnet.sampler.mnet import Body
from mnet.sampler.mnet_select import SCALE, MNetSelect
from mnet.weight_files import load_weights, save_weights
from training.config import read_config, told
from training.fit.card import provenance
from training.fit.select_examples import Example, mean_table, nominal, read_examples
from training.fit.select_margin import Unseen, settle, settle_fixed, settle_swaps


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
    accelerations = np.array([nominal(e.plan) for e in examples])
    ratios = []
    for example in examples:
        fixed = int(model.mean_losses(example.plan).argmin())
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
    read = partial(read_examples, Path(config.labels), Path(config.scans), body=body)
    cohorts = {cohort: read([cohort]) for cohort in config.cohorts}
    everything = [example for examples in cohorts.values() for example in examples]
    patterns = json.loads(Path(config.patterns).read_text())
    model = trained_on(everything, patterns, config)
    watched = {cohort: read([cohort]) for cohort in config.validation}
    strata = settle_fixed(model, cohorts | watched)
    unseen = {cohort: Unseen.by(model, examples) for cohort, examples in watched.items()}
    validation = Unseen.by(model, [e for examples in watched.values() for e in examples])
    for cohort, examples in cohorts.items():
        others = [e for name, known in cohorts.items() if name != cohort for e in known]
        if 2 * len(others) >= len(everything):  # fewer would speak for another model
            other = trained_on(others, patterns, config)
            settle_fixed(other, cohorts | watched)
            unseen[cohort] = Unseen.by(other, examples)
    figures = settle(model, unseen, config.margins)
    figures["fixed"] = dict(zip(map(str, model.table["acceleration"]), model.fixed, strict=True))
    figures["fixed by stratum"] = strata
    modl, modl_card = load_weights(config.reconstructor)
    figures |= settle_swaps(model, validation, config.swaps, modl, config.n_rows)
    card = {
        "training": told(config),
        "n_scans": len(everything),
        "vetted": ["family"] * (len(model.vetted_masks(everything[0].plan)) - len(patterns))
        + [pattern["name"] for pattern in patterns],
        "validation": figures,
        "reconstructor": modl_card["sha256"],
        **provenance(config.parts),
    }
    save_weights(model, Path(config.weights), card)
    return figures


def trained_on(
    examples: Sequence[Example], patterns: Sequence[dict[str, Any]], config: Config
) -> MNetSelect:
    """Train a model; its margin and swaps are not settled."""
    model = MNetSelect(
        [pattern["pattern"] for pattern in patterns],
        mean_table(examples),
        config.n_channels,
        config.n_embedding,
        config.n_members,
    )
    examples = with_targets(examples, model, config.clip)
    numbers = torch.stack([e.numbers for e in examples])
    for member in range(config.n_members):
        model.bodies[member].shift.copy_(numbers.mean(0))
        model.bodies[member].spread.copy_(numbers.std(0).clamp_min(1e-6))
        _train_member(model, member, examples, config)
    return model.eval()


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
        torch.stack([e.image for e in examples]), torch.stack([e.numbers for e in examples])
    )
    mean = torch.from_numpy(np.stack([model.mean_losses(e.plan) for e in examples]))
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


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    torch.set_num_threads(1)
    print(json.dumps(train(read_config(Config, parser.parse_args().config)), indent=1))


if __name__ == "__main__":
    main()
