"""The curve that decides: the error on measured scans, which nobody trains on, during training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mnet.masks.family import NEAR_BEST, family
from mnet.physics import sense
from training.data.corpus import Sample
from training.data.fastmri import samples
from training.data.volume import read_volume


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watched:
    """The middle slice of a measured scan at an acceleration."""

    name: str  # of the file, with the acceleration
    sample: Sample

    @property
    def mask(self) -> Tensor:
        """The lines (1, ky) that it is reconstructed from."""
        return torch.from_numpy(family(self.sample.plan())[NEAR_BEST]).float()[None]


def read_watched(
    files: Sequence[str], accelerations: Sequence[float] = (4.0, 8.0)
) -> list[Watched]:
    """Read the middle slices of some files, each at every acceleration."""
    watched = []
    for path in map(Path, files):
        volume = read_volume(path)
        for acceleration in accelerations:
            (sample,) = samples(volume, acceleration, [volume.n_slices // 2])
            watched.append(Watched(name=f"{path.stem}, {acceleration:g}x", sample=sample))
    return watched


@torch.inference_mode()
def real_curve(model: nn.Module, watched: Sequence[Watched]) -> dict[str, float]:
    """Return the relative L2 error of a network on every watched scan."""
    device = next(model.parameters()).device
    found = {}
    for scan in watched:
        kspace, csm, mask = scan.sample.kspace[None], scan.sample.csm[None], scan.mask
        truth = sense.adjoint(kspace, csm, torch.ones_like(mask))
        image = model(*(part.to(device) for part in (kspace, csm, mask))).cpu()
        found[scan.name] = round(float((image - truth).norm() / truth.norm()), 4)
    return found
