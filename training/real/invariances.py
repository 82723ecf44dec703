"""What must not matter: units, phases, the order of coils, and how the object lies.

Every transformation acts on all lines of a scan and on its mask alike, maps are estimated again
from the transformed calibration lines, and the NRMSE against the transformed reference must stay
what it was. Where a transformation turns ky round, row k becomes row -k about the centre row, and
the mask and the calibration rows go along.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mnet.masks.line_plan import Bool
from mnet.physics import sense
from mnet.physics.fourier import inverse_fourier
from training.real.methods import Method
from training.real.scans import RealScan, maps_of
from training.real.scores import nrmse

Transform = Callable[[Tensor], Tensor]  # of hybrid k-space (coils, x, ky)
TARGET = 0.01  # the largest relative change of NRMSE that is wanted
SHIFT = 3  # pixels


def mirror(values: Tensor, dim: int) -> Tensor:
    """Turn an axis round about its centre n // 2; of an even axis the first entry stays."""
    n = values.shape[dim]
    places = (2 * (n // 2) - torch.arange(n)) % n
    return values.index_select(dim, places)


def mirror_rows(mask: Bool) -> Bool:
    """Turn the rows (ky,) of a mask round about the centre row."""
    return mirror(torch.from_numpy(mask), 0).numpy()


def shift_y(kspace: Tensor, pixels: int) -> Tensor:
    """Shift the object along y, cyclically, by a linear phase of k-space (..., ky)."""
    n = kspace.shape[-1]
    turns = (torch.arange(n) - n // 2) * pixels / n
    return kspace * torch.exp(-2j * torch.pi * turns)


def shift_x(kspace: Tensor, pixels: int) -> Tensor:
    """Shift the object along x, cyclically; hybrid k-space is an image along x."""
    return kspace.roll(pixels, -2)


def reorder(kspace: Tensor) -> Tensor:
    """Put the coils (coils, ...) into another order."""
    order = np.random.default_rng(0).permutation(kspace.shape[0])[::-1].copy()
    return kspace[torch.from_numpy(order)]


def coil_phases(kspace: Tensor) -> Tensor:
    """Give every coil (coils, ...) a phase of its own."""
    turns = torch.from_numpy(np.random.default_rng(0).random(kspace.shape[0]))
    return kspace * torch.exp(2j * torch.pi * turns).to(kspace.dtype)[:, None, None]


PLAIN: dict[str, Transform] = {
    "scale 1e-6": lambda k: k * 1e-6,
    "scale 1e6": lambda k: k * 1e6,
    "global phase": lambda k: k * np.exp(1j),
    "coil order": reorder,
    "coil phases": coil_phases,
    "flip along x": lambda k: mirror(k, -2),
    f"shift along x by {SHIFT}": lambda k: shift_x(k, SHIFT),
    f"shift along y by {SHIFT}": lambda k: shift_y(k, SHIFT),
    "shift along x by half the field of view": lambda k: shift_x(k, k.shape[-2] // 2),
    "shift along y by half the field of view": lambda k: shift_y(k, k.shape[-1] // 2),
}
TURNING: dict[str, Transform] = {  # rows change places, and so does the mask
    "conjugation": lambda k: mirror(k.conj().resolve_conj(), -1),
    "flip along y": lambda k: mirror(k, -1),
}


def changes(scan: RealScan, mask: Bool, methods: Sequence[Method]) -> list[dict[str, object]]:
    """Return the change of NRMSE under every transformation, a row for each method.

    Methods keep their first setting. The image is that of the encoded field of view: what is
    shifted out of the middle of it still counts.
    """
    calibration = scan.plan.calibration
    return [
        {
            "file": scan.file,
            "subject": scan.subject,
            "slice": scan.slice,
            "acceleration": scan.sample.acceleration,
            "method": method.name,
            "transformation": name,
            "nrmse_unchanged": before,
            "nrmse": after,
            "change": after / before - 1,
        }
        for method in methods
        for before in [_error(scan.sample.kspace, mask, calibration, method)]
        for name, after in _errors(scan, mask, calibration, method)
    ]


def _errors(
    scan: RealScan, mask: Bool, calibration: Bool, method: Method
) -> list[tuple[str, float]]:
    found = []
    for name, transform in (PLAIN | TURNING).items():
        turn = mirror_rows if name in TURNING else lambda rows: rows
        kspace = transform(scan.sample.kspace).to(scan.sample.kspace.dtype)
        found.append((name, _error(kspace, turn(mask), turn(calibration), method)))
    return found


@torch.inference_mode()
def _error(kspace: Tensor, mask: Bool, calibration: Bool, method: Method) -> float:
    csm = maps_of(kspace, calibration)
    reference = sense.combine(inverse_fourier(kspace, dim=-1), csm)
    rows = torch.from_numpy(mask)
    _, call = method.settings[0]
    image = call(torch.where(rows, kspace, 0), csm, rows.to(kspace.real.dtype))
    return nrmse(image, reference)
