"""Coil maps from the calibration lines, while the slice is still being measured."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from mnet.maps import coil_maps

from .errors import GadgetError
from .gadget import Gadget, Scan
from .items import Complex, Frame, Item, PreScan


@dataclass(frozen=True, kw_only=True)
class CoilMaps(Gadget):
    """Estimate ESPIRiT maps when a slice's PreScan arrives and hand them to its frames."""

    heavy = True

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Fill in `csm`; maps of a PreScan serve all contrasts of its slice."""
        maps: dict[tuple[int, int], Complex] = {}
        for item in items:
            if isinstance(item, PreScan):
                maps[item.key.slice, item.key.repetition] = _estimate(scan, item.lines)
                yield item
            elif isinstance(item, Frame):
                csm = maps.get((item.key.slice, item.key.repetition))
                csm = maps.get((item.key.slice, 0)) if csm is None else csm
                if csm is None:
                    csm = _from_frame(scan, item)
                yield replace(item, csm=csm)
            else:
                yield item

    def warm(self, scan: Scan) -> None:
        """Run once on a small calibration."""
        _estimate(scan, np.ones((2, 32, 16), np.complex64))


def _estimate(scan: Scan, lines: Complex) -> Complex:
    with torch.inference_mode():
        csm = coil_maps(torch.from_numpy(lines).to(scan.device), scan.geometry.n_ky)
    return csm.cpu().numpy()


def _from_frame(scan: Scan, frame: Frame) -> Complex:
    if frame.calibration.sum() < 4:
        raise GadgetError(
            f"slice {frame.key.slice} has {int(frame.calibration.sum())} neighbouring lines around "
            "the centre of k-space, expected at least 4 to estimate coil maps from"
        )
    return _estimate(scan, frame.kspace[:, :, frame.calibration])
