"""Deployed weights: `NAME.safetensors` with its card `NAME.json` beside it.

The card holds the architecture, where the weights come from, how they score and the sha256 of the
tensor file, which must match before anything is loaded. The two files alone rebuild the model;
nothing is unpickled.
"""

import hashlib
import importlib.resources
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save_file
from torch import nn

from .recon.modl import MoDL
from .recon.unet import UNetReconstructor
from .sampler.experts import MNetExperts
from .sampler.guard import Guard
from .sampler.mnet import MNet
from .sampler.mnet_select import MNetSelect
from .sampler.paper_mnet import PaperMNet

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "MNet": MNet,
    "MNetExperts": MNetExperts,
    "MNetSelect": MNetSelect,
    "PaperMNet": PaperMNet,
    "MoDL": MoDL,
    "UNetReconstructor": UNetReconstructor,
}


class WeightsError(ValueError):
    """Weights that are missing, damaged or of another architecture."""


def folder() -> Path:
    """Return the folder of the packaged weights."""
    return Path(str(importlib.resources.files("mnet") / "weights"))


def save_weights(model: nn.Module, path: Path, card: dict[str, Any]) -> None:
    """Write `path`.safetensors and `path`.json; `card` adds data, commands and metrics.

    Raises WeightsError for a model that is none of ARCHITECTURES.
    """
    name = type(model).__name__
    if name not in ARCHITECTURES:
        raise WeightsError(f"cannot save a {name}, expected one of {sorted(ARCHITECTURES)}")
    tensors = path.with_suffix(".safetensors")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tensors)
    digest = hashlib.sha256(tensors.read_bytes()).hexdigest()
    architecture = {"class": name, "config": model.config}
    full = {"architecture": architecture, "sha256": digest, **card}
    path.with_suffix(".json").write_text(json.dumps(full, indent=2) + "\n")


def read_card(name: str) -> dict[str, Any]:
    """Read the card of packaged weights (`name`), or of a file (a path without its suffix).

    Raises WeightsError where it is missing or not JSON.
    """
    path = _path(name).with_suffix(".json")
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        known = sorted(p.stem for p in folder().glob("*.json"))
        raise WeightsError(f"no weights {name!r}: {path} is missing; packaged: {known}") from None
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    return card


def load_weights(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model in evaluation mode, and its card.

    Raises
    ------
    WeightsError
        If a file is missing, the hash differs, the tensors do not fit the architecture, or the
        card has a guard that is none.
    """
    card = read_card(name)
    path = _path(name).with_suffix(".safetensors")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing beside its card") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.get("sha256"):
        raise WeightsError(f"{path} has sha256 {digest}, its card says {card.get('sha256')}")
    try:
        kind = ARCHITECTURES[card["architecture"]["class"]]
        model = kind(**card["architecture"]["config"])
        model.load_state_dict(load(data))
    except (KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path} does not fit its card: {error}") from error
    guard_of(card, str(path.with_suffix(".json")))
    return model.eval().requires_grad_(False), card


def guard_of(card: dict[str, Any], name: str) -> Guard | None:
    """Return the guard of a sampler's card, None where it has none; WeightsError if malformed."""
    if "guard" not in card:
        return None
    try:
        return Guard.from_json(card["guard"])
    except ValueError as error:
        raise WeightsError(f"{name}: {error}; training.guard makes guards") from None


def _path(name: str) -> Path:
    # packaged weights go by bare name; anything with a folder in it is a path
    return Path(name) if "/" in name else folder() / name
