"""LOUPE's mask: one density over ky for all scans, at any matrix size and acceleration.

Every position of ky has a weight w; p = sigmoid(slope w), scaled to the budget, is the probability
that its line is acquired. Bahadir et al. 2020, doi:10.1109/TCI.2020.3006727; binary draws with a
straight-through gradient after Zhang et al. 2020, arXiv:2007.14450.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save_file
from torch import Tensor, nn

from mnet.masks.line_plan import Bool, LinePlan


class LoupeMask(nn.Module):
    """Probabilities of lines at any matrix size, with any budget.

    Weights stand on a grid over ky from -1 to 1, where 1 is the furthest acquirable row, and are
    interpolated linearly to the rows of a scan; one vector for each of some accelerations, between
    which they are interpolated linearly in the logarithm of the acceleration.
    """

    def __init__(
        self,
        accelerations: Sequence[float] = (4.0, 8.0),
        n_grid: int = 161,
        slope: float = 5.0,
        draw_slope: float = 12.0,
    ) -> None:
        super().__init__()
        if not accelerations or list(accelerations) != sorted(set(accelerations)):
            raise ValueError(f"accelerations {list(accelerations)} do not increase")
        self.config = {
            "accelerations": list(accelerations),
            "n_grid": n_grid,
            "slope": slope,
            "draw_slope": draw_slope,
        }
        self.accelerations, self.slope, self.draw_slope = tuple(accelerations), slope, draw_slope
        start = torch.empty(len(accelerations), n_grid).uniform_(0.01, 0.99)
        self.weight = nn.Parameter(torch.logit(start) / slope)

    def probabilities(self, plan: LinePlan) -> Tensor:
        """Return p (ky,): 1 on calibration, 0 where nothing can be acquired; the sum is `n_lines`.

        Like LOUPE, too large a mean is scaled down, and too small a one is scaled in 1 - p.
        """
        movable = torch.from_numpy(plan.movable).to(self.weight.device)
        free = torch.sigmoid(self.slope * self.row_weights(plan)[movable])
        share, mean = plan.n_movable / max(int(movable.sum()), 1), free.mean()
        if mean >= share:
            scaled = free * (share / mean)
        else:
            scaled = 1 - (1 - free) * ((1 - share) / (1 - mean))
        fixed = torch.from_numpy(plan.calibration).to(self.weight)
        return fixed.masked_scatter(movable, scaled)

    def row_weights(self, plan: LinePlan) -> Tensor:
        """Return the weights (ky,) of the rows of a plan."""
        acceleration = np.log(plan.acquirable.sum() / plan.n_lines)
        vectors = interpolation(np.array([acceleration]), np.log(self.accelerations))
        rows = np.arange(plan.acquirable.size) - plan.center
        furthest = max(float(np.abs(rows[plan.acquirable]).max()), 1.0)
        grid = interpolation(rows / furthest, np.linspace(-1, 1, self.weight.shape[1]))
        table = torch.from_numpy(vectors).to(self.weight) @ self.weight
        return torch.from_numpy(grid).to(self.weight) @ table[0]

    def draw(self, plan: LinePlan, uniform: Tensor) -> Tensor:
        """Return a mask (ky,) of lines drawn with numbers (ky,) from (0, 1), straight through.

        As many lines as planned on average, not every time: that is the law that LOUPE learns with.
        """
        p = self.probabilities(plan)
        hard = (uniform < p).to(p)
        soft = torch.sigmoid(self.draw_slope * (p - uniform))
        return hard + (soft - soft.detach())

    @torch.no_grad()
    def mask(self, plan: LinePlan) -> Bool:
        """Return the mask (ky,) of the most probable lines, exactly the budget."""
        weight = self.row_weights(plan).cpu().numpy()
        rows = np.flatnonzero(plan.movable)
        best = np.argsort(-weight[rows], kind="stable")  # p grows with the weight
        return plan.mask(rows[best[: plan.n_movable]])

    @torch.no_grad()
    def random_masks(self, plan: LinePlan, n: int, rng: np.random.Generator) -> list[Bool]:
        """Draw masks (ky,) with the probabilities until `n` of them have exactly the budget."""
        p = self.probabilities(plan).cpu().double().numpy()
        masks: list[Bool] = []
        while len(masks) < n:
            drawn: NDArray[np.bool_] = rng.random((256, p.size)) < p
            masks += list(drawn[drawn.sum(1) == plan.n_lines])
        return masks[:n]


def interpolation(
    places: NDArray[np.floating[Any]], grid: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the matrix (places, grid) of linear interpolation; constant beyond the grid."""
    return np.stack([np.interp(places, grid, unit) for unit in np.eye(grid.size)], axis=1)


def save_mask(loupe: LoupeMask, path: Path, card: dict[str, Any]) -> str:
    """Write `path`.safetensors and its card `path`.json; returns the sha256 of the tensors."""
    tensors = path.with_suffix(".safetensors")
    save_file({k: v.contiguous() for k, v in loupe.state_dict().items()}, tensors)
    digest = hashlib.sha256(tensors.read_bytes()).hexdigest()
    architecture = {"class": "LoupeMask", "config": loupe.config}
    full = {"architecture": architecture, "sha256": digest, **card}
    path.with_suffix(".json").write_text(json.dumps(full, indent=2) + "\n")
    return digest


def load_mask(path: Path) -> LoupeMask:
    """Read a mask.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If the files are not a mask's, or do not belong together.
    """
    card = json.loads(path.with_suffix(".json").read_text())
    data = path.with_suffix(".safetensors").read_bytes()
    architecture = card.get("architecture", {})
    if architecture.get("class") != "LoupeMask":
        raise ValueError(f"{path} holds a {architecture.get('class')}, expected a LoupeMask")
    digest = hashlib.sha256(data).hexdigest()
    if digest != card["sha256"]:
        raise ValueError(f"{path} has sha256 {digest}, its card says {card['sha256']}")
    loupe = LoupeMask(**architecture["config"])
    loupe.load_state_dict(load(data))
    return loupe.requires_grad_(False)
