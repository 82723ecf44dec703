"""Deployed weights, loaded once per process and device; which of them a client may name."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "name of deployed weights"
# The type of a property that names weights: what a client may write there is checked.
WeightsName = Annotated[str, WEIGHTS]
MOST = 8  # models of a process; what was not asked for the longest goes


def chosen_device(device: str) -> str:
    """Return the device to use: `auto` is the GPU where there is one."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Models:
    """Deployed weights by name, the last few kept; safe for several threads at once."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._loaded: OrderedDict[str, tuple[nn.Module, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model, in evaluation mode on the device, and its card."""
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
        # torch takes seconds: not before it is needed
        from mnet.weight_files import load_weights

        model, card = load_weights(name)
        found = model.to(self.device), card
        with self._lock:
            self._loaded[name] = found
            while len(self._loaded) > MOST:
                self._loaded.popitem(last=False)
        return found
