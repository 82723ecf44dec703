"""MNet: from the calibration lines of a slice to the lines worth acquiring.

A sampler maps `features` of the calibration lines, a `LinePlan` and nothing else to one logit per
row; `top_lines` turns logits into a mask with exactly the planned number of lines. After Gautam, Li
and Ravishankar, arXiv:2509.16846, and the MNet of Huang and Ravishankar, arXiv:2111.09212.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..masks.family import FAMILY, VettedMasks
from ..masks.line_plan import Bool, LinePlan
from ..masks.patterns import Pattern
from .features import (
    GRID_X,
    N_COIL_FEATURES,
    N_FEATURES,
    N_SCALARS,
    N_STATISTICS,
    normalise,
    plan_scalars,
    statistics,
)

N_TABLE = 10


def line_table(plan: LinePlan) -> NDArray[np.float32]:
    """Describe every row to a head along ky: (10, n) float32."""
    n = plan.acquirable.size
    signed = np.arange(n) - plan.center
    position = signed / max(float(np.abs(signed[plan.acquirable]).max()), 1.0)
    rows = [
        plan.calibration.astype(float),
        plan.acquirable.astype(float),
        position,
        np.abs(position),
    ]
    rows += [f(math.pi * 2**k * position) for k in range(3) for f in (np.sin, np.cos)]
    return np.stack(rows).astype(np.float32)


class Body(nn.Module):
    """A small CNN that embeds the calibration lines of a slice, for any matrix and coil count.

    With `rich` it also sees plain statistics of the lines and how their coils encode; without, the
    coil average alone, as the paper has it. `n_channels` 0 leaves the CNN out. Numbers are brought
    to zero mean and unit spread by `shift` and `spread`, which training sets.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, n_channels: int = 24, n_embedding: int = 64, rich: bool = True) -> None:
        super().__init__()
        c = n_channels
        self.rich = rich
        self.trunk = (
            nn.Sequential(
                nn.Conv2d(N_FEATURES if rich else 2, c, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(c, c, 3, padding=1, stride=(2, 1)),
                nn.SiLU(),
                nn.Conv2d(c, 2 * c, 3, padding=1, stride=2),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d((4, 4)),
                nn.Flatten(),
            )
            if c
            else None
        )
        n_numbers = N_SCALARS + (N_STATISTICS + N_COIL_FEATURES if rich else 1)
        self.register_buffer("shift", torch.zeros(n_numbers))
        self.register_buffer("spread", torch.ones(n_numbers))
        self.embed = nn.Sequential(
            nn.Linear(2 * c * 16 + n_numbers, n_embedding),
            nn.SiLU(),
            nn.Dropout(0.2),
            nn.Linear(n_embedding, n_embedding),
            nn.SiLU(),
            nn.Dropout(0.2) if rich else nn.Identity(),
        )

    def forward(self, z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
        """Return embeddings (batch, n_embedding) of features (batch, 3, x, L) and (batch, 19)."""
        return self.embedding(*self.inputs(z, plan, coils))

    def inputs(self, z: Tensor, plan: LinePlan, coils: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network sees: (batch, channels, 64, L), and numbers (batch, n_numbers).

        Without a CNN the first has no channels.
        """
        n_calibration = int(plan.calibration.sum())
        if z.shape[-1] != n_calibration or z.shape[-3] != N_FEATURES:
            raise ValueError(
                f"features have shape {tuple(z.shape)}, expected (batch, {N_FEATURES}, x, "
                f"{n_calibration}) for {n_calibration} calibration lines"
            )
        if coils.shape not in ((z.shape[0], N_COIL_FEATURES), (1, N_COIL_FEATURES)):
            raise ValueError(
                f"coil features have shape {tuple(coils.shape)}, expected "
                f"({z.shape[0]}, {N_COIL_FEATURES})"
            )
        scalars = torch.tensor(plan_scalars(plan)).to(z).expand(z.shape[0], -1)
        coils = coils.to(z).expand(z.shape[0], -1)
        if self.trunk is None:
            image = z.new_zeros(z.shape[0], 0, GRID_X, n_calibration)
        else:
            image = normalise(z) if self.rich else normalise(z)[:, :2]
        if not self.rich:
            count = torch.log2(coils[:, :1].clamp_min(1)) / 2
            return image, torch.cat([scalars, count], dim=1)
        return image, torch.cat([statistics(z), coils, scalars], dim=1)

    def embedding(self, image: Tensor, numbers: Tensor) -> Tensor:
        """Return the embedding (batch, n_embedding) of `inputs`, which may be of several plans."""
        numbers = ((numbers - self.shift) / self.spread).clamp(-4, 4)
        if self.trunk is not None:
            numbers = torch.cat([self.trunk(image), numbers], dim=1)
        embedding: Tensor = self.embed(numbers)
        return embedding


Stack = tuple[Tensor, Tensor]  # weights (layers, out, in) and biases (layers, 1, out)


class BatchedBodies:
    """Several bodies that see the same, as one matrix product a layer: a mask is due at once.

    It copies their weights, so make it anew when these change.
    """

    def __init__(self, bodies: Sequence[Body]) -> None:
        self._shift, spread = (
            torch.stack(each).unsqueeze(1)
            for each in ([body.shift for body in bodies], [body.spread for body in bodies])
        )
        self._scale = 1 / spread
        self._trunks = [body.trunk for body in bodies if body.trunk is not None]
        layers = zip(*(body.embed for body in bodies), strict=True)
        self._layers = [
            stacked(each) if isinstance(each[0], nn.Linear) else each[0] for each in layers
        ]

    def __call__(self, image: Tensor, numbers: Tensor) -> Tensor:
        """Return `Body.embedding` of every body: (bodies, batch, n_embedding)."""
        x = ((numbers - self._shift) * self._scale).clamp(-4, 4)
        if self._trunks:
            x = torch.cat([torch.stack([trunk(image) for trunk in self._trunks]), x], dim=-1)
        for layer in self._layers:
            x = batched_linear(layer, x) if isinstance(layer, tuple) else layer(x)
        return x


def stacked(layers: Iterable[nn.Module]) -> Stack:
    """Put the weights and biases of linear layers together."""
    parameters = [(layer.weight, layer.bias) for layer in layers if isinstance(layer, nn.Linear)]
    weight, bias = (torch.stack(parts) for parts in zip(*parameters, strict=True))
    return weight, bias.unsqueeze(1)


def batched_linear(stack: Stack, x: Tensor) -> Tensor:
    """Apply the n-th of several linear layers to the n-th of (layers, batch, features)."""
    weight, bias = stack
    return torch.baddbmm(bias, x, weight.mT)


class _Film(nn.Module):
    """A dilated 1-D convolution over rows, scaled and shifted by the slice's embedding."""

    def __init__(self, n_in: int, n_out: int, n_embedding: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_in, n_out, 5, padding=2 * dilation, dilation=dilation)
        self.film = nn.Linear(n_embedding, 2 * n_out)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding).unsqueeze(-1).chunk(2, dim=1)
        return functional.silu(self.conv(x) * (1 + scale) + shift)


class LineHead(nn.Module):
    """One number per row from a description of the rows and the embedding of a slice."""

    def __init__(self, n_table: int, n_embedding: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Film(n_in, width, n_embedding, dilation)
            for n_in, dilation in [(n_table, 1), (width, 2), (width, 4), (width, 1)]
        )
        self.out = nn.Conv1d(width, 1, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, table: Tensor, embedding: Tensor) -> Tensor:
        """Return (batch, n) from tables (batch, n_table, n) and embeddings (batch, n_embedding)."""
        x = table
        for layer in self.layers:
            x = layer(x, embedding)
        result: Tensor = self.out(x)[:, 0]
        return result


class MNet(nn.Module):
    """The paper's sampler for any matrix size, coil count and acceleration.

    A CNN embeds the coil average of the calibration lines; convolutions along ky, modulated by the
    embedding, give one logit per row. They see, beside positions, which rows vetted masks take:
    the family's, and `patterns` as `Pattern.to_json` gives them. Without these, convolutions cannot
    write a comb. Trained on ICD masks (training.fit.alternate).
    """

    def __init__(
        self,
        n_channels: int = 24,
        n_embedding: int = 64,
        rich: bool = False,
        patterns: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "n_channels": n_channels,
            "n_embedding": n_embedding,
            "rich": rich,
            "patterns": patterns or [],
        }
        vetted = VettedMasks(
            patterns=tuple(Pattern.from_json(content) for content in patterns or [])
        )
        self.body = Body(n_channels, n_embedding, rich)
        self.head = LineHead(N_TABLE + len(FAMILY) + len(vetted.patterns), n_embedding)
        # all slices of a scan share a plan, scans run side by side, and milliseconds count
        self.vetted_masks: Callable[[LinePlan], tuple[Bool, ...]] = lru_cache(maxsize=64)(vetted)

    def forward(self, z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
        """Return logits (batch, n) from `features` and `coil_features` of the calibration lines."""
        embedding = self.body(z, plan, coils)
        masks = 2 * np.stack(self.vetted_masks(plan)).astype(np.float32) - 1
        table = torch.from_numpy(np.concatenate([line_table(plan), masks])).to(z)
        logits: Tensor = self.head(table.expand(z.shape[0], -1, -1), embedding)
        return logits


def top_lines(logits: Tensor, plan: LinePlan) -> Tensor:
    """Return masks (batch, n) float: calibration and the highest logits, exactly the budget.

    Differentiable by the straight-through estimator: the gradient of the logits is that of the
    mask, on movable lines (Bengio et al. 2013, arXiv:1308.3432).
    """
    movable = torch.from_numpy(plan.movable).to(logits.device)
    open_logits = logits.masked_fill(~movable, -torch.inf)
    best = open_logits.topk(plan.n_movable, dim=-1).indices
    fixed = torch.from_numpy(plan.calibration).to(logits).expand_as(logits)
    hard = fixed.scatter(-1, best, 1.0)
    soft = torch.where(movable, logits, 0.0)
    return hard + (soft - soft.detach())


def mask_of(logits: Tensor, plan: LinePlan) -> Bool:
    """Return the bool mask (n,) of one slice's logits (n,) or (1, n)."""
    mask: Bool = (top_lines(logits.reshape(1, -1), plan)[0] > 0.5).cpu().numpy()
    return mask
