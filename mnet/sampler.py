"""MNet: from the calibration lines of a slice to the lines worth acquiring.

A sampler maps `features` of the calibration lines, a `Lines` plan and nothing else to one logit per
row; `top_lines` turns logits into a mask with exactly the planned number of lines. After Gautam, Li
and Ravishankar, arXiv:2509.16846, and Huang and Ravishankar's MNet.
"""

import itertools
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .fourier import inverse_fourier
from .masks import Bool, Lines, from_density, power_law

N_FEATURES = 3
GRID_X = 64
N_TABLE = 13
N_SCALARS = 4
N_STATISTICS = 58
# (power, cutoff) of the density masks that a prediction starts from
FAMILY = (
    *((power, 1.0) for power in (0.0, 0.5, 1.0, 2.0, 4.0, 6.0)),
    *((power, 0.75) for power in (0.5, 1.0, 2.0, 3.0)),
    *((power, 0.55) for power in (0.5, 1.0, 2.0)),
    (0.5, 0.4),
)
TEMPERATURE = 0.01  # relative loss that makes a member e times less likely
Preferences = dict[str, list[Any]]  # "acceleration": [..], "loss": [[.. per member], ..]


def line_features(line: Tensor) -> Tensor:
    """Average one hybrid line (..., coils, x) over its coils: features (..., 3, x).

    Real and imaginary part of the complex mean, and the root of the mean square, which the phases
    of the coils cannot cancel. A line at a time, so that nothing is left to do after the last one.
    """
    mean = line.mean(-2)
    energy = line.abs().square().mean(-2).sqrt()
    return torch.stack([mean.real, mean.imag, energy], dim=-2)


def features(lines: Tensor) -> Tensor:
    """Average hybrid calibration lines (..., coils, x, L) over coils: (..., 3, x, L)."""
    return line_features(lines.movedim(-1, 0)).movedim(0, -1)


def normalise(z: Tensor) -> Tensor:
    """Bring features (batch, 3, x, L) to a common scale, from these lines alone, and to GRID_X.

    Amplitudes span four decades, so the mean is compressed by its square root and the energy by a
    logarithm; the air at the ends of the readout then shows the noise.
    """
    z = functional.adaptive_avg_pool2d(z, (GRID_X, z.shape[-1]))
    scale = z[:, 2:].square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-20)
    z = z / scale
    amplitude = z[:, :2].square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
    return torch.cat([z[:, :2] / amplitude.sqrt(), torch.log10(z[:, 2:].clamp_min(1e-4))], dim=1)


@lru_cache(maxsize=8)  # all slices of a scan share a plan, and milliseconds count
def family(lines: Lines) -> tuple[Bool, ...]:
    """Return the masks (n,) along the densities of FAMILY."""
    return tuple(from_density(lines, power_law(lines, *member)) for member in FAMILY)


@lru_cache(maxsize=8)
def family_tables(lines: Lines) -> NDArray[np.float32]:
    """Describe the rows of every member to the head: (members, 13, n)."""
    return np.stack([line_table(lines, member) for member in family(lines)])


def statistics(z: Tensor) -> Tensor:
    """Sum up features (batch, 3, x, L) in N_STATISTICS logarithms, from these lines alone.

    How energy falls off along ky and differs between its two sides; how it is spread along the
    readout, and in quantiles, the lowest of which are noise; how far the object fills the field of
    view along y.
    """
    energy = z[:, 2] / z[:, 2].square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-20)
    power = energy.square()
    along_ky = functional.adaptive_avg_pool1d(power.mean(1, keepdim=True), 12)[:, 0]
    along_x = functional.adaptive_avg_pool1d(power.mean(2)[:, None], 16)[:, 0].sort(dim=1).values
    levels = torch.tensor([0.01, 0.05, 0.2, 0.5, 0.8, 0.95]).to(energy)
    quantiles = torch.quantile(energy.flatten(1), levels, dim=1).T
    image = inverse_fourier(torch.complex(z[:, 0], z[:, 1]), -1).abs()
    along_y = functional.adaptive_avg_pool1d(image.mean(1, keepdim=True), 12)[:, 0]
    along_y = along_y / along_y.amax(1, keepdim=True).clamp_min(1e-20)
    along_ky, *rest = (
        torch.log10(part.clamp_min(1e-6))
        for part in (along_ky, along_x, quantiles, along_y.sort(dim=1).values)
    )
    return torch.cat([along_ky, along_ky.flip(1) - along_ky, *rest], dim=1)


def line_table(lines: Lines, prior: Bool) -> NDArray[np.float32]:
    """Describe every row to the head: (13, n) float32."""
    n = lines.acquirable.size
    signed = np.arange(n) - lines.center
    position = signed / max(float(np.abs(signed[lines.acquirable]).max()), 1.0)
    local = np.convolve(prior.astype(float), np.ones(9) / 9, mode="same")
    mirrored = prior[np.clip(2 * lines.center - np.arange(n), 0, n - 1)]
    rows = [
        prior * 2.0 - 1.0,
        mirrored * 2.0 - 1.0,
        local,
        lines.calibration.astype(float),
        lines.acquirable.astype(float),
        position,
        np.abs(position),
    ]
    rows += [f(math.pi * 2**k * position) for k in range(3) for f in (np.sin, np.cos)]
    return np.stack(rows).astype(np.float32)


def plan_scalars(lines: Lines, n_coils: int) -> list[float]:
    """Describe a plan to the trunk in four numbers near one."""
    n = float(lines.acquirable.sum())
    return [
        math.log2(n / lines.n_lines),
        math.log2(n / 128),
        float(lines.calibration.sum()) / lines.n_lines,
        math.log2(max(n_coils, 1)) / 2,
    ]


class _Film(nn.Module):
    """A dilated 1-D convolution over rows, scaled and shifted by the slice's embedding."""

    def __init__(self, n_in: int, n_out: int, n_embedding: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_in, n_out, 5, padding=2 * dilation, dilation=dilation)
        self.film = nn.Linear(n_embedding, 2 * n_out)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding).unsqueeze(-1).chunk(2, dim=1)
        return functional.silu(self.conv(x) * (1 + scale) + shift)


class MNet(nn.Module):
    """Scan-adaptive sampler for any matrix size, coil count and acceleration.

    A small CNN and plain statistics embed the calibration lines. From the embedding, one head
    predicts which member of a family of density masks suits the slice, and a second, 1-D
    convolutions over ky modulated by the embedding, corrects that mask line by line; it is trained
    on ICD masks. Logits are

        prior_scale * (2 member - 1) + strength * correction

    As initialised the prediction is the population mask, the best fixed one.
    """

    strength: Tensor

    def __init__(
        self,
        n_channels: int = 24,
        n_embedding: int = 64,
        preferences: Preferences | None = None,
    ) -> None:
        super().__init__()
        # without training, members nearer to (2, 1) are preferred
        self.preferences = preferences or {
            "acceleration": [4.0],
            "loss": [[abs(power - 2.0) + 1.0 - cutoff for power, cutoff in FAMILY]],
        }
        self.config = {
            "n_channels": n_channels,
            "n_embedding": n_embedding,
            "preferences": self.preferences,
        }
        c = n_channels
        self.trunk = nn.Sequential(
            nn.Conv2d(N_FEATURES, c, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(c, c, 3, padding=1, stride=(2, 1)),
            nn.SiLU(),
            nn.Conv2d(c, 2 * c, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d((4, 4)),
            nn.Flatten(),
        )
        self.embed = nn.Sequential(
            nn.Linear(2 * c * 16 + N_STATISTICS + N_SCALARS, n_embedding),
            nn.SiLU(),
            nn.Dropout(0.2),
            nn.Linear(n_embedding, n_embedding),
            nn.SiLU(),
        )
        self.choose = nn.Linear(n_embedding, len(FAMILY))
        self.head = nn.ModuleList(
            _Film(n_in, 32, n_embedding, dilation)
            for n_in, dilation in [(N_TABLE, 1), (32, 2), (32, 4), (32, 1)]
        )
        self.out = nn.Conv1d(32, 1, 1)
        self.prior_scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("strength", torch.tensor(1.0))
        for layer in (self.choose, self.out):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def mean_losses(self, lines: Lines) -> NDArray[np.float64]:
        """Return the relative losses of the family's members on training scans, for a plan."""
        acceleration = float(lines.acquirable.sum()) / lines.n_lines
        known, losses = self.preferences["acceleration"], np.array(self.preferences["loss"])
        return np.array([np.interp(acceleration, known, column) for column in losses.T])

    def population(self, lines: Lines) -> Bool:
        """Return the best fixed mask (n,) for a plan: the member with the lowest mean loss."""
        return family(lines)[int(self.mean_losses(lines).argmin())].copy()

    def embedding(self, z: Tensor, lines: Lines, n_coils: int) -> Tensor:
        """Return the embedding (batch, n_embedding) of features (batch, 3, x, L)."""
        n_calibration = int(lines.calibration.sum())
        if z.shape[-1] != n_calibration or z.shape[-3] != N_FEATURES:
            raise ValueError(
                f"features have shape {tuple(z.shape)}, expected (batch, {N_FEATURES}, x, "
                f"{n_calibration}) for {n_calibration} calibration lines"
            )
        scalars = torch.tensor(plan_scalars(lines, n_coils)).to(z).expand(z.shape[0], -1)
        parts = [self.trunk(normalise(z)), statistics(z), scalars]
        embedding: Tensor = self.embed(torch.cat(parts, dim=1))
        return embedding

    def member_scores(self, embedding: Tensor, lines: Lines) -> Tensor:
        """Return how well each member of the family suits: scores (batch, members).

        The head's output corrects what is known of the members' losses on other scans.
        """
        prior = torch.from_numpy(self.mean_losses(lines) / TEMPERATURE).to(embedding)
        scores: Tensor = self.choose(embedding) - prior
        return scores

    def correction(self, embedding: Tensor, table: Tensor) -> Tensor:
        """Return the line-by-line correction (batch, n) of masks described by (batch, 13, n)."""
        x = table
        for layer in self.head:
            x = layer(x, embedding)
        result: Tensor = self.out(x)[:, 0]
        return result

    def forward(self, z: Tensor, lines: Lines, n_coils: int) -> Tensor:
        """Return logits (batch, n) from features (batch, 3, x, L) of the calibration lines."""
        embedding = self.embedding(z, lines, n_coils)
        tables = torch.from_numpy(family_tables(lines)).to(z)
        table = tables[self.member_scores(embedding, lines).argmax(1)]
        return self.prior_scale * table[:, 0] + self.strength * self.correction(embedding, table)


class PaperMNet(nn.Module):
    """The sampler in the layout of the paper's sources, for one matrix size and line count.

    Five double convolutions with 3x3 pooling on the zero-filled low-frequency k-space (2 channels),
    then four linear layers to one logit per row; 80 to 212 million weights at `n_channels` 128.
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

    def forward(self, z: Tensor, lines: Lines, n_coils: int) -> Tensor:
        """Return logits (batch, n) from features (batch, 3, x, L)."""
        if z.shape[-2] != self.n_x or lines.acquirable.size != self.n_ky:
            raise ValueError(
                f"built for {self.n_x} x {self.n_ky}, got {z.shape[-2]} x {lines.acquirable.size}"
            )
        mean = torch.complex(z[:, 0], z[:, 1])
        canvas = mean.new_zeros(z.shape[0], self.n_x, self.n_ky)
        canvas[..., torch.from_numpy(np.flatnonzero(lines.calibration))] = mean
        canvas = canvas / canvas.abs().amax((-2, -1), keepdim=True).clamp_min(1e-20)
        logits: Tensor = self.layers(torch.stack([canvas.real, canvas.imag], dim=1))
        return logits


def top_lines(logits: Tensor, lines: Lines) -> Tensor:
    """Return masks (batch, n) float: calibration and the highest logits, exactly the budget.

    Differentiable by the straight-through estimator: the gradient of the logits is that of the
    mask, on movable lines (Bengio et al. 2013, arXiv:1308.3432).
    """
    movable = torch.from_numpy(lines.movable).to(logits.device)
    open_logits = logits.masked_fill(~movable, -torch.inf)
    best = open_logits.topk(lines.n_movable, dim=-1).indices
    fixed = torch.from_numpy(lines.calibration).to(logits).expand_as(logits)
    hard = fixed.scatter(-1, best, 1.0)
    soft = torch.where(movable, logits, 0.0)
    return hard + (soft - soft.detach())


def mask_of(logits: Tensor, lines: Lines) -> Bool:
    """Return the bool mask (n,) of one slice's logits (n,) or (1, n)."""
    mask: Bool = (top_lines(logits.reshape(1, -1), lines)[0] > 0.5).cpu().numpy()
    return mask
