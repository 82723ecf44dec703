"""Deployed weights, loaded once per process and device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class Models:
    """Deployed weights by name, loaded once per process and device."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._loaded: dict[str, tuple[nn.Module, dict[str, Any]]] = {}

    def get(self, name: str) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model, in evaluation mode on the device, and its card."""
        if name not in self._loaded:
            # torch takes seconds: not before it is needed
            from mnet.weight_files import load_weights

            model, card = load_weights(name)
            self._loaded[name] = model.to(self.device), card
        return self._loaded[name]
