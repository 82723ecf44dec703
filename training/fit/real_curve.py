"""The curve that decides: the error on measured scans, which nobody trains on, during training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mnet.masks.family import FAMILY, family
from mnet.masks.line_plan import LinePlan
from mnet.physics import sense
from mnet.physics.coil_maps import coil_maps
from mnet.physics.prewhiten import apply
from training.data.volume import read_volume
from training.data.whitening import whitening

MEMBER = FAMILY.index((1.0, 1.0))  # near the best of the family on measured brains


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watched:
    """The middle slice of a measured scan, and the lines of it that are reconstructed from."""

    name: str  # of the file, with the acceleration
    kspace: Tensor  # (1, coils, x, ky) complex64, hybrid, whitened
    csm: Tensor  # of the same shape
    mask: Tensor  # (1, ky)
    truth: Tensor  # (1, x, y), of all lines


def read_watched(
    files: Sequence[str], accelerations: Sequence[float] = (4.0, 8.0)
) -> list[Watched]:
    """Read the middle slices of some files, each at every acceleration."""
    return [scan for file in files for scan in _read(Path(file), accelerations)]


def _read(path: Path, accelerations: Sequence[float]) -> list[Watched]:
    volume = read_volume(path)
    matrix, _ = whitening(volume)
    kspace = volume.hybrid(volume.n_slices // 2)
    kspace = (kspace if matrix is None else apply(matrix, kspace))[None]
    scans = []
    for acceleration in accelerations:
        plan = LinePlan.of(volume.acquirable, acceleration)
        csm = coil_maps(kspace[0][..., torch.from_numpy(plan.calibration)], kspace.shape[-1])[None]
        mask = torch.from_numpy(family(plan)[MEMBER]).float()[None]
        scans.append(
            Watched(
                name=f"{path.stem}, {acceleration:g}x",
                kspace=kspace,
                csm=csm,
                mask=mask,
                truth=sense.adjoint(kspace, csm, torch.ones_like(mask)),
            )
        )
    return scans


@torch.inference_mode()
def real_curve(model: nn.Module, watched: Sequence[Watched]) -> dict[str, float]:
    """Return the relative L2 error of a network on every watched scan."""
    device = next(model.parameters()).device
    found = {}
    for scan in watched:
        image = model(*(part.to(device) for part in (scan.kspace, scan.csm, scan.mask))).cpu()
        found[scan.name] = round(float((image - scan.truth).norm() / scan.truth.norm()), 4)
    return found
