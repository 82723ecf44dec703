"""Checkpoints without pickle: weights, their average and the optimiser's state as safetensors.

The step and the sum of losses stand in a JSON file beside it. Both files are replaced in one step
each, the JSON last, so that a run that is stopped anywhere goes on from a whole checkpoint.
"""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_checkpoint(
    path: Path, step: int, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Write `path`.safetensors and `path`.json."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    part = path.with_suffix(f".{step}.safetensors")
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, part)
    text = path.with_suffix(".part")
    text.write_text(json.dumps({"step": step, "file": part.name}) + "\n")
    os.replace(text, path.with_suffix(".json"))
    for old in path.parent.glob(f"{path.name}.*.safetensors"):
        if old != part:
            old.unlink()


def load_checkpoint(
    path: Path, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> int:
    """Restore a run; returns the step to go on from, 0 where there is no checkpoint."""
    card = path.with_suffix(".json")
    if not card.exists():
        return 0
    found = json.loads(card.read_text())
    tensors = load_file(path.parent / found["file"])

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(under("model."))
    average.load_state_dict(under("average."))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in under("optimiser.").items():
        i, _, name = key.partition(".")
        state.setdefault(int(i), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    return int(found["step"])


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the average of the weights; faster in the first steps."""
    weight = max(1 - decay, 1 / (step + 1))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, weight)
