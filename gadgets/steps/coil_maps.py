"""Coil maps from the calibration lines, while the slice is still being measured."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from mnet.physics.coil_maps import maps_and_second
from mnet.physics.foldover import fov_folded

from ..errors import GadgetError
from ..mrd.complete import OFF_CENTRE, off_centre
from ..mrd.items import Complex, Frame, Item, PreScan
from ..pipeline.gadget import Gadget
from ..pipeline.scan import Scan

log = logging.getLogger(__name__)
Maps = tuple[Complex, dict[str, str]]  # (coils, x, y), and what a frame's meta says of them
KEPT = 512 << 20  # bytes of maps: what is over is made again, from lines a fifteenth as large
FOLDED = "slices folded over along ky"


@dataclass(frozen=True, kw_only=True)
class CoilMaps(Gadget):
    """Estimate ESPIRiT maps when a slice's PreScan arrives and hand them to its frames.

    An image's meta says `mnet_fov_folded`, `true` where the object overflows the field of view
    along ky. One set of maps does not explain that: the image is wrong near both edges, and the log
    warns. Nothing is said from one coil or from fewer than 6 lines.
    """

    heavy = True

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Fill in `csm`; maps of a PreScan serve its slice until the next one of that slice."""
        known = _Known(scan)
        folded: set[int] = set()  # slices that the log has warned of
        for item in items:
            if isinstance(item, PreScan):
                known.learn(item)
                yield item
            elif isinstance(item, Frame):
                off = _check_centre(scan, item)
                csm, meta = known.maps_of(item)
                if meta.get("fov_folded") == "true" and item.key.slice not in folded:
                    folded.add(item.key.slice)
                    _warn_of_fold(scan, item.key.slice)
                yield replace(item, csm=csm, meta={**item.meta, **meta, **off})
            else:
                yield item

    def warm(self, scan: Scan) -> None:
        """Run once on a small calibration."""
        _estimate(scan, np.ones((2, 32, min(16, scan.geometry.n_ky)), np.complex64), 0)


@dataclass(slots=True)
class _Slice:
    """What is known of one slice's coils."""

    prescan: PreScan | None  # None: the maps are of a frame's own lines
    maps: Maps | None
    awaited: int  # frames to come, as the header has it


class _Known:
    """The maps of slices that still await frames, and no others: they are as large as k-space."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._slices: dict[int, _Slice] = {}  # the one used last is the last one
        self._through: set[int] = set()  # slices of which every frame came
        self._header_holds = True

    def learn(self, item: PreScan) -> None:
        """Make the maps of a slice."""
        began = time.time()
        csm, meta = _from_prescan(self._scan, item)
        ms = f"{1e3 * (time.time() - began):.1f}"
        when = {"maps_began": f"{began:.3f}", "maps_ms": ms}  # for a timeline of the scan
        self._slices.pop(item.key.slice, None)
        self._slices[item.key.slice] = self._slice(item, (csm, meta | when), item.key.repetition)
        self._make_room()

    def maps_of(self, frame: Frame) -> Maps:
        """Return a frame's maps, and forget them after the last frame of its slice."""
        at = frame.key.slice
        one = self._slices.pop(at, None)
        if one is None and at not in self._through:  # no PreScan came
            return _from_frame(self._scan, frame)
        if one is None or one.awaited == 0:  # more images than the header names
            self._header_holds = False
        if one is None:
            one = self._slice(None, _from_frame(self._scan, frame), frame.key.repetition)
        maps = one.maps
        if maps is None and one.prescan is not None:
            maps = _from_prescan(self._scan, one.prescan)
        assert maps is not None  # without a PreScan they are never dropped
        one.awaited = max(one.awaited - 1, 0)
        one.maps = maps if one.awaited or not self._header_holds else None
        if one.maps is not None or not _has_the_lines_of(frame, one.prescan, self._scan):
            self._slices[at] = one
        else:
            self._through.add(at)
        return maps

    def _slice(self, prescan: PreScan | None, maps: Maps, repetition: int) -> _Slice:
        geometry = self._scan.geometry
        n = geometry.n_contrasts * geometry.n_phases * geometry.n_sets
        n *= max(geometry.n_repetitions - repetition, 1)
        return _Slice(prescan=prescan, maps=maps, awaited=n)

    def _make_room(self) -> None:
        """Drop the maps used longest ago beyond KEPT; lines, which make them again, stay."""
        held = [one for one in self._slices.values() if one.maps is not None]
        n_bytes = sum(one.maps[0].nbytes for one in held if one.maps is not None)
        for one in held[:-1]:
            if n_bytes > KEPT and one.maps is not None and one.prescan is not None:
                n_bytes -= one.maps[0].nbytes
                one.maps = None


def _has_the_lines_of(frame: Frame, prescan: PreScan | None, scan: Scan) -> bool:
    """Say that maps can be made from a frame of this slice alone: no line was measured beside."""
    return prescan is None or bool(frame.calibration[scan.geometry.row(prescan.counters)].all())


def _check_centre(scan: Scan, frame: Frame) -> dict[str, str]:
    """Warn where the header's centre is wrong; return what the image's meta says of it.

    It may be wrong in converted partial-Fourier scans.

    A wrong centre shifts k-space, so that calibration and masks are of the wrong lines; the image
    alone does not show it.
    """
    strongest = off_centre(np.square(np.abs(frame.kspace)).sum((0, 1)))
    if strongest is None:
        return {}
    if not scan.counts[OFF_CENTRE]:
        log.warning(
            "slice %d: the strongest line is ky %d, but the header's center is %d; if that is "
            "wrong, `--header ky_center=COUNTER` of replay and convert sets another",
            frame.key.slice,
            scan.geometry.counter(strongest),
            scan.geometry.center,
        )
    scan.counts[OFF_CENTRE] += 1
    return {"strongest_ky": str(scan.geometry.counter(strongest))}


def _warn_of_fold(scan: Scan, slice_: int) -> None:
    log.warning(
        "slice %d: the object overflows the field of view along ky, and one set of coil maps does "
        "not explain it: expect errors near both edges; measure with a larger one (phase "
        "oversampling)",
        slice_,
    )
    scan.counts[FOLDED] += 1


def _estimate(scan: Scan, lines: Complex, slice_: int) -> tuple[Complex, dict[str, str]]:
    n_lines = lines.shape[-1]
    if n_lines < 4:
        raise GadgetError(
            f"slice {slice_} has {n_lines} neighbouring line{'' if n_lines == 1 else 's'} around "
            "the centre of k-space, expected at least 4 to estimate coil maps from"
        )
    with torch.inference_mode():
        calibration = torch.from_numpy(lines).to(scan.device)
        csm, second = maps_and_second(calibration, scan.geometry.n_ky)
        folded = fov_folded(calibration, csm, second)
    meta = {} if folded is None else {"fov_folded": str(folded).lower()}
    return csm.cpu().numpy(), meta


def _from_prescan(scan: Scan, item: PreScan) -> tuple[Complex, dict[str, str]]:
    """Use the longest run of neighbouring lines: ESPIRiT's kernels span ky without gaps."""
    runs = np.split(np.arange(item.counters.size), np.flatnonzero(np.diff(item.counters) != 1) + 1)
    longest = max(runs, key=len)
    return _estimate(scan, item.lines[:, :, longest], item.key.slice)


def _from_frame(scan: Scan, frame: Frame) -> tuple[Complex, dict[str, str]]:
    return _estimate(scan, frame.kspace[:, :, frame.calibration], frame.key.slice)
