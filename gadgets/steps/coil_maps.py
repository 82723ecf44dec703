"""Coil maps from the calibration lines, while the slice is still being measured."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from mnet.physics.coil_maps import coil_maps

from ..errors import GadgetError
from ..mrd.complete import off_centre
from ..mrd.items import Complex, Frame, Item, PreScan
from ..pipeline.gadget import Gadget
from ..pipeline.scan import Scan

log = logging.getLogger(__name__)
OFF_CENTRE = "frames with their strongest line away from the header's centre"


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
                _check_centre(scan, item)
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


def _check_centre(scan: Scan, frame: Frame) -> None:
    """Warn where the header's centre is wrong, as in converted partial-Fourier scans it may be.

    A wrong centre shifts k-space, so that calibration and masks are of the wrong lines; the image
    alone does not show it.
    """
    strongest = off_centre(np.square(np.abs(frame.kspace)).sum((0, 1)))
    if strongest is None:
        return
    if not scan.counts[OFF_CENTRE]:
        log.warning(
            "slice %d: the strongest line is ky %d, but the header's center is %d; if that is "
            "wrong, `--header ky_center=COUNTER` of replay and convert sets another",
            frame.key.slice,
            scan.geometry.counter(strongest),
            scan.geometry.center,
        )
    scan.counts[OFF_CENTRE] += 1


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
