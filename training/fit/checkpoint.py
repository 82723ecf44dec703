"""Checkpoints without pickle: weights, their average and the optimiser's state as safetensors.

The step stands in a JSON file beside it. Both files are replaced in one step each, the JSON last,
so that a run that is stopped anywhere goes on from a whole checkpoint.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from training.fit.party import Party


def save_checkpoint(path: Path, step: int, parties: Mapping[str, Party]) -> None:
    """Write `path`.STEP.safetensors and `path`.json."""
    tensors: dict[str, Tensor] = {}
    for name, party in parties.items():
        tensors |= {f"{name}.model.{k}": v for k, v in party.model.state_dict().items()}
        tensors |= {f"{name}.average.{k}": v for k, v in party.average.state_dict().items()}
        for i, state in party.optimiser.state_dict()["state"].items():
            values = {k: v for k, v in state.items() if isinstance(v, Tensor)}
            tensors |= {f"{name}.optimiser.{i}.{k}": v for k, v in values.items()}
    part = path.with_name(f"{path.name}.{step}.safetensors")
    save_file({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, part)
    text = path.with_suffix(".part")
    text.write_text(json.dumps({"step": step, "file": part.name}) + "\n")
    os.replace(text, path.with_suffix(".json"))
    for old in path.parent.glob(f"{path.name}.*.safetensors"):
        if old != part:
            old.unlink()


def load_checkpoint(path: Path, parties: Mapping[str, Party]) -> int:
    """Restore a run; returns the step to go on from, 0 where there is no checkpoint.

    Raises
    ------
    ValueError
        If the checkpoint is of other networks.
    """
    card = path.with_suffix(".json")
    if not card.exists():
        return 0
    found = json.loads(card.read_text())
    tensors = load_file(path.parent / found["file"])
    for name, party in parties.items():
        try:
            party.model.load_state_dict(_under(tensors, f"{name}.model."))
            party.average.load_state_dict(_under(tensors, f"{name}.average."))
        except RuntimeError as error:
            raise ValueError(f"{card} is of another network: {error}") from None
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, f"{name}.optimiser.").items():
            i, _, entry = key.partition(".")
            state.setdefault(int(i), {})[entry] = value
        groups = party.optimiser.state_dict()["param_groups"]
        party.optimiser.load_state_dict({"state": state, "param_groups": groups})
    return int(found["step"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
