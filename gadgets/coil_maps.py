"""Coil maps from the calibration lines, while the slice is still being measured."""

import time
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
        """Fill in `csm`; maps of a PreScan serve its slice until the next one of that slice."""
        maps: dict[int, Complex] = {}
        when: dict[int, dict[str, str]] = {}  # they were made, for a timeline of the scan
        for item in items:
            if isinstance(item, PreScan):
                began = time.time()
                maps[item.key.slice] = _from_prescan(scan, item)
                ms = f"{1e3 * (time.time() - began):.1f}"
                when[item.key.slice] = {"maps_began": f"{began:.3f}", "maps_ms": ms}
                yield item
            elif isinstance(item, Frame):
                csm = maps.get(item.key.slice)
                yield replace(
                    item,
                    csm=_from_frame(scan, item) if csm is None else csm,
                    meta={**item.meta, **when.get(item.key.slice, {})},
                )
            else:
                yield item

    def warm(self, scan: Scan) -> None:
        """Run once on a small calibration."""
        _estimate(scan, np.ones((2, 32, min(16, scan.geometry.n_ky)), np.complex64), 0)


def _estimate(scan: Scan, lines: Complex, slice_: int) -> Complex:
    n_lines = lines.shape[-1]
    if n_lines < 4:
        raise GadgetError(
            f"slice {slice_} has {n_lines} neighbouring lines around the centre of k-space, "
            "expected at least 4 to estimate coil maps from"
        )
    with torch.inference_mode():
        csm = coil_maps(torch.from_numpy(lines).to(scan.device), scan.geometry.n_ky)
    return csm.cpu().numpy()


def _from_prescan(scan: Scan, item: PreScan) -> Complex:
    """Use the longest run of neighbouring lines: ESPIRiT's kernels span ky without gaps."""
    runs = np.split(np.arange(item.counters.size), np.flatnonzero(np.diff(item.counters) != 1) + 1)
    longest = max(runs, key=len)
    return _estimate(scan, item.lines[:, :, longest], item.key.slice)


def _from_frame(scan: Scan, frame: Frame) -> Complex:
    return _estimate(scan, frame.kspace[:, :, frame.calibration], frame.key.slice)
