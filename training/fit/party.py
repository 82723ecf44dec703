"""A party to training: a network, its optimiser, and the running average of its weights."""

import copy
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Party:
    """A network in training, its optimiser, and the average that is deployed."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: nn.Module

    @classmethod
    def adam(cls, model: nn.Module, learning_rate: float) -> "Party":
        """Make a party of a network with Adam."""
        optimiser = torch.optim.Adam(trainable(model), lr=learning_rate)
        return cls(model=model, optimiser=optimiser, average=copy.deepcopy(model))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not frozen."""
    return [p for p in model.parameters() if p.requires_grad]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the average of the weights; faster in the first steps."""
    weight = max(1 - decay, 1 / (step + 1))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, weight)
