"""Deployed weights: `NAME.safetensors` with its card `NAME.json` beside it.

The card holds the architecture, where the weights come from, how they score and the sha256 of the
tensor file, which must match before anything is loaded. The two files alone rebuild the model;
nothing is unpickled.
"""

import hashlib
import importlib.resources
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

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
LARGEST = 4096  # of a card's numbers: of channels, levels, members


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

    Raises WeightsError where it is missing, or no JSON object.
    """
    path = _path(name).with_suffix(".json")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(p.stem for p in folder().glob("*.json"))
        raise WeightsError(f"no weights {name!r}: {path} is missing; packaged: {known}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(card, dict):
        raise WeightsError(f"{path}: expected a JSON object, got a {type(card).__name__}")
    return card


def load_weights(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model in evaluation mode, and its card.

    Raises
    ------
    WeightsError
        If a file is missing, the hash differs, the tensors do not fit the architecture or are not
        finite, or the card has a guard that is none.
    """
    card = read_card(name)
    path = _path(name).with_suffix(".safetensors")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing beside its card") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.get("sha256"):
        raise WeightsError(f"{path} has sha256 {digest}, its card says {card.get('sha256')}")
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is no safetensors file: {error}") from error
    wrong = sorted(key for key, value in tensors.items() if not _finite(value))
    if wrong:
        raise WeightsError(f"{path}: expected finite weights, got NaN or infinity in {wrong[:5]}")
    try:
        kind = ARCHITECTURES[card["architecture"]["class"]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of layers of no size
            model = _of_these(kind, card["architecture"]["config"], tensors)
        model.load_state_dict(tensors)
    # what a configuration that is not an object, or holds what cannot be, was seen to raise
    except (
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        IndexError,
        AttributeError,
        Warning,
    ) as e:
        raise WeightsError(f"{path} does not fit its card: {type(e).__name__}: {e}") from e
    guard_of(card, str(path.with_suffix(".json")))
    return model.eval().requires_grad_(False), card


def _of_these(
    kind: Callable[..., nn.Module], config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> nn.Module:
    """Build a network that these tensors fit; a card may say sizes that no memory holds.

    Raises
    ------
    ValueError
        If it would have other tensors, found before memory is taken for them.
    """
    for name, value in config.items():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"{name} is {value}, expected at most {LARGEST}")
    with torch.device("meta"):
        planned = {name: tensor.shape for name, tensor in kind(**config).state_dict().items()}
    for name in sorted(planned.keys() | tensors.keys()):
        told, there = planned.get(name), tensors[name].shape if name in tensors else None
        if told != there:
            raise ValueError(f"{name} has shape {_shape(there)}, by the card {_shape(told)}")
    return kind(**config)


def _shape(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _finite(tensor: Tensor) -> bool:
    """Say whether all values are; a network of NaN answers everything with NaN."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def guard_of(card: dict[str, Any], name: str) -> Guard | None:
    """Return the guard of a sampler's card, None where it has none; WeightsError if malformed."""
    if "guard" not in card:
        return None
    try:
        return Guard.from_json(card["guard"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{name}: {error}; training.guard makes guards") from None


def _path(name: str) -> Path:
    # packaged weights go by bare name; anything with a folder in it is a path
    return Path(name) if "/" in name else folder() / name
