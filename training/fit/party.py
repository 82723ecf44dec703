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
    def adam(
        cls, model: nn.Module, learning_rate: float, fast: str = "", factor: float = 3.0
    ) -> "Party":
        """Make a party of a network with Adam.

        Parameters whose name begins with `fast` learn by a `factor` faster: a few numbers that
        stand for a whole scan.
        """
        slow = [p for name, p in model.named_parameters() if not (fast and name.startswith(fast))]
        quick = [p for name, p in model.named_parameters() if fast and name.startswith(fast)]
        groups = [(slow, learning_rate), (quick, factor * learning_rate)]
        optimiser = torch.optim.Adam(
            [
                {"params": learned, "lr": rate}
                for parameters, rate in groups
                if (learned := [p for p in parameters if p.requires_grad])
            ]
        )
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
