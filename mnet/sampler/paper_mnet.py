"""The sampler in the layout of the sources that the paper builds on."""

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from ..masks.line_plan import LinePlan


class PaperMNet(nn.Module):
    """The sampler in the layout of the paper's sources, for one matrix size and line count.

    Five double convolutions with 3x3 pooling on the zero-filled low-frequency k-space (2 channels),
    then four linear layers to one logit per row; 80 to 212 million weights at `n_channels` 128.
    Raises ValueError for a matrix too small for five stages. arXiv:2111.09212 and its code.
    """

    def __init__(self, n_x: int, n_ky: int, n_channels: int = 128) -> None:
        super().__init__()
        self.config = {"n_x": n_x, "n_ky": n_ky, "n_channels": n_channels}
        self.n_x, self.n_ky = n_x, n_ky
        layers: list[nn.Module] = []
        n_in, width, size = 2, n_channels, (n_x, n_ky)
        for stage in range(5):
            if stage:
                layers.append(nn.MaxPool2d(3))
                size = (size[0] // 3, size[1] // 3)
            for n in (n_in, width):
                layers += [nn.Conv2d(n, width, 3, padding=1), nn.InstanceNorm2d(width), nn.ReLU()]
            n_in, width = width, width * 2
        if min(size) < 2:
            raise ValueError(f"{n_x} x {n_ky} is too small for five stages, expected >= 162 x 162")
        layers += [nn.AvgPool2d(2), nn.Flatten()]
        n_flat = n_in * (size[0] // 2) * (size[1] // 2)
        widths = [int(n) for n in np.linspace(n_flat, n_ky, 5)]
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.LeakyReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
        """Return logits (batch, n) from features (batch, 3, x, L)."""
        if z.shape[-2] != self.n_x or plan.acquirable.size != self.n_ky:
            raise ValueError(
                f"built for {self.n_x} x {self.n_ky}, got {z.shape[-2]} x {plan.acquirable.size}"
            )
        mean = torch.complex(z[:, 0], z[:, 1])
        canvas = mean.new_zeros(z.shape[0], self.n_x, self.n_ky)
        canvas[..., torch.from_numpy(np.flatnonzero(plan.calibration))] = mean
        canvas = canvas / canvas.abs().amax((-2, -1), keepdim=True).clamp_min(1e-20)
        logits: Tensor = self.layers(torch.stack([canvas.real, canvas.imag], dim=1))
        return logits
