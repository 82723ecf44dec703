"""The training loop: resumable, on one core or on several GPUs.

Alternating training has two parties, and `turn` says whose step it is. Every step draws from a
generator seeded by (seed, step, rank), so that a resumed run draws what the uninterrupted one would
have. Under torchrun each process draws its own scans and gradients are averaged; on a GPU networks
run in bfloat16 by autocast, while Fourier transforms and conjugate gradients stay in float32.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn

from training.fit.checkpoint import load_checkpoint, save_checkpoint
from training.fit.party import Party, trainable, update_average

LossOf = Callable[[str, int, np.random.Generator], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How long and how fast, and where the run lies."""

    run: Path  # folder of checkpoints and of log.jsonl
    n_steps: int
    batch: int = 1  # draws per step and process
    seed: int = 0
    every: int = 250  # steps between checkpoints
    decay: float = 0.998  # of the average of the weights
    clip: float = 0.5  # norm of a gradient
    warm_up: int = 100  # steps
    turn: Callable[[int], str] | None = field(default=None, compare=False)  # step -> party


def is_first() -> bool:
    """Say whether this process writes files: alone, or the first of torchrun's."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def n_processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def device() -> torch.device:
    """Return the GPU of this process, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def join_processes() -> None:
    """Join the other processes when started by torchrun; alone nothing happens."""
    if "RANK" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def fit(
    parties: Mapping[str, Party],
    loss_of: LossOf,
    settings: Fit,
    validate: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Run, or go on from the checkpoint, until `n_steps`.

    `loss_of(party, step, rng)` draws a sample and returns its loss; a loss that is not finite (a
    band of air) counts nothing. The rate of every optimiser warms up and falls as a cosine.
    """
    rank = 0 if not distributed.is_initialized() else distributed.get_rank()
    settings.run.mkdir(parents=True, exist_ok=True)
    checkpoint = settings.run / "checkpoint"
    first = load_checkpoint(checkpoint, parties)
    log = settings.run / "log.jsonl"
    if rank == 0:
        _truncate(log, first)
    rates = {
        name: [
            group.setdefault("initial_lr", group["lr"]) for group in party.optimiser.param_groups
        ]
        for name, party in parties.items()
    }
    names = list(parties)
    losses: dict[str, list[float]] = {name: [] for name in names}
    started = time.monotonic()
    for step in range(first, settings.n_steps):
        rng = np.random.default_rng([settings.seed, step, rank])
        torch.manual_seed(int(rng.integers(2**31)))  # of dropout and the like
        name = settings.turn(step) if settings.turn else names[0]
        party = parties[name]
        for group, rate in zip(party.optimiser.param_groups, rates[name], strict=True):
            group["lr"] = rate * schedule(step, settings)
        party.optimiser.zero_grad()
        total = _backward(partial(loss_of, name, step, rng), settings.batch)
        average_gradients(party.model)
        torch.nn.utils.clip_grad_norm_(trainable(party.model), settings.clip)
        party.optimiser.step()
        update_average(party.average, party.model, step, settings.decay)
        losses[name].append(total)
        done = step + 1
        if (done % settings.every == 0 or done == settings.n_steps) and rank == 0:
            entry = {"step": done, **{f"loss_{k}": _mean(v) for k, v in losses.items() if v}}
            entry |= validate() if validate is not None else {}
            losses = {name: [] for name in names}
            seconds = (time.monotonic() - started) / (done - first)
            with log.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            # after the log, which a resumed run cuts back to its checkpoint
            save_checkpoint(checkpoint, done, parties)
            left = seconds * (settings.n_steps - done) / 60
            print(f"{entry}  {seconds:.3f} s/step, {left:.0f} min left", flush=True)


def schedule(step: int, settings: Fit) -> float:
    """Return the fraction of the full rate: a linear warm-up, then a cosine to zero."""
    progress = step / max(settings.n_steps, 1)
    return min((step + 1) / settings.warm_up, 1) * (1 + math.cos(math.pi * progress)) / 2


def average_gradients(model: nn.Module) -> None:
    """Average gradients over the processes of torchrun; alone nothing happens."""
    if not distributed.is_initialized():
        return
    for parameter in trainable(model):
        if parameter.grad is None:  # every process must take part
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
        parameter.grad /= distributed.get_world_size()


def read_log(run: Path) -> list[dict[str, float]]:
    """Return the entries of a run's log, by step."""
    path = run / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _backward(draw_loss: Callable[[], Tensor], batch: int) -> float:
    total = 0.0
    for _ in range(batch):
        with torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()):
            loss = draw_loss()
        if torch.isfinite(loss):
            (loss / batch).backward()
            total += float(loss.detach()) / batch
    return total


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 5)


def _truncate(log: Path, step: int) -> None:
    """Drop entries after a checkpoint: the run writes them again."""
    if log.exists():
        kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
        log.write_text("".join(line + "\n" for line in kept))
