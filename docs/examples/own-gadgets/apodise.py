"""Less ringing at edges and less noise, for a point-spread function that is wider.

The k-space of an image ends where the measured lines end, so every sharp edge rings, by 9 % of its
height however fine the matrix is. A window that falls off smoothly towards that end takes ringing
and noise away, and resolution with them. It is J. W. Tukey's; see F. J. Harris, Proc. IEEE 66
(1978) 51, doi:10.1109/PROC.1978.10837.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gadgets.errors import GadgetError
from gadgets.mrd.items import Frame, Item
from gadgets.pipeline.gadget import Gadget
from gadgets.pipeline.scan import Scan
from mnet.physics.fourier import fourier, inverse_fourier


@dataclass(frozen=True, kw_only=True)
class Apodise(Gadget):
    """Weight the k-space of every image with a Tukey window along x and along ky.

    Its place is between Reconstruct and ImageFinish. The window ends with the encoding limits, not
    with the matrix: lines beyond them were never measured.
    """

    heavy = True  # some ms an image, in the worker: no mask waits for it

    taper: float = 0.5  # share of k-space, from its end inwards, that falls off: 0 none, 1 Hann's

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 < self.taper <= 1:
            raise ValueError(f"taper is {self.taper}, expected more than 0 and at most 1")

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Yield frames with another image; everything else passes."""
        geometry = scan.geometry
        rows = geometry.row(geometry.limit_counters) - geometry.n_ky // 2
        along_x = window(geometry.n_x, geometry.n_x // 2, self.taper)
        along_ky = window(geometry.n_ky, int(np.abs(rows).max()), self.taper)
        return self._stream(along_x[:, None] * along_ky, items)

    def _stream(self, weights: NDArray[np.float32], items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            if isinstance(item, Frame):
                if item.image is None:
                    raise GadgetError("Apodise got a frame without image: put Reconstruct first")
                image = weighted(torch.from_numpy(item.image), torch.from_numpy(weights))
                meta = {**item.meta, "apodisation": f"Tukey {self.taper:g}"}
                yield replace(item, image=image.numpy(), meta=meta)
            else:
                yield item


def window(n: int, edge: int, taper: float) -> NDArray[np.float32]:
    """Return n weights about n // 2: 1 in the middle, 0 first at `edge` + 1 samples from it."""
    distance = np.abs(np.arange(n) - n // 2) / (edge + 1)
    falling = np.clip((distance - (1 - taper)) / taper, 0, 1)
    return (0.5 * (1 + np.cos(np.pi * falling))).astype(np.float32)


def weighted(image: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Multiply the k-space of an image (x, y) with weights (kx, ky), the centre at n // 2."""
    kspace = fourier(fourier(image, 0), 1) * weights
    return inverse_fourier(inverse_fourier(kspace, 0), 1)
