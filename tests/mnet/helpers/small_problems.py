"""Small plans, scans and networks that several tests share."""

import numpy as np
import torch

from mnet.masks.line_plan import LinePlan
from mnet.physics import sense
from mnet.sampler.features import N_COIL_FEATURES
from tests.mnet.helpers.operator_checks import random_like


def make_plan(n: int = 96, acceleration: float = 4.0, padded: int = 0) -> LinePlan:
    acquirable = np.ones(n, dtype=bool)
    acquirable[:padded] = acquirable[n - padded :] = padded == 0
    return LinePlan.of(acquirable, acceleration)


def coils(n_coils: int = 5) -> torch.Tensor:
    """Coil features of a slice: so many coils, that tell aliases apart half-way."""
    return torch.cat(
        [torch.tensor([[float(n_coils)]]), torch.full((1, N_COIL_FEATURES - 1), 0.5)], 1
    )


def problem(
    n_x: int = 12, n_ky: int = 18, batch: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hybrid k-space of random images, maps of unit norm, and every second line."""
    csm = random_like(torch.zeros(batch, 4, n_x, n_ky, dtype=torch.complex64), 0)
    csm = csm / csm.abs().square().sum(1, keepdim=True).sqrt()
    image = random_like(torch.zeros(batch, n_x, n_ky, dtype=torch.complex64), 1)
    mask = (torch.arange(n_ky) % 2 == 0).float().repeat(batch, 1)
    return sense.forward(image, csm, torch.ones(batch, n_ky)), csm, mask


def trained_looking(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give weights a value: an untrained network changes nothing and would prove nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.startswith("log_lam"):
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()
