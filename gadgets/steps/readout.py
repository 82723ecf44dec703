"""The readout transform: kx samples as they come to x in the reconstructed field of view."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from mnet.physics.readout import to_pixels

from ..mrd.echo import PARTIAL, centred, same_length
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import Flag, flags_of, is_imaging
from ..mrd.items import Acquisition, Burst, Item
from ..pipeline.gadget import Gadget
from ..pipeline.scan import Scan

_EMPTY = 8  # this part of a readout at one end, at least, is what a partial echo lacks
OneOrMore = TypeVar("OneOrMore", bound=Acquisition | Burst)


@dataclass(frozen=True, kw_only=True)
class RemoveReadoutOversampling(Gadget):
    """Transform every line along the readout and crop the oversampling, which is exact there.

    Navigators and other readouts that belong to no image pass as they came: they need not fit the
    encoded matrix. Imaging lines of one contrast and set must have as many samples as the first.
    """

    takes_bursts = True

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Yield lines in hybrid space."""
        expected: dict[tuple[int, int], int] = {}
        for item in items:
            if isinstance(item, Acquisition | Burst) and _fits(item):
                if is_imaging(flags_of(item.header)):
                    kind = int(item.header["contrast"]), int(item.header["set"])
                    n_samples = item.data.shape[-1]
                    same_length(item.header, n_samples, expected.setdefault(kind, n_samples))
                    if is_partial(item, scan.geometry):
                        n = len(item.headers) if isinstance(item, Burst) else 1
                        scan.counts[PARTIAL] += n
                yield to_hybrid(item, scan.geometry)
            else:
                yield item


def _fits(line: Acquisition | Burst) -> bool:
    if int(line.header["encoding_space_ref"]) != 0:
        return False
    flags = flags_of(line.header)
    return is_imaging(flags & ~Flag.CALIBRATION)  # reference lines serve for maps


def is_partial(line: Acquisition | Burst, geometry: Geometry) -> bool:
    """Say whether one side of a readout holds nothing, as sent or as filled up around the echo."""
    if line.hybrid:
        return False
    kx = centred(line, geometry)
    n = kx.shape[-1] // _EMPTY
    left, right = (bool(end.any()) for end in (kx[..., :n], kx[..., kx.shape[-1] - n :]))
    return left != right


def to_hybrid(line: OneOrMore, geometry: Geometry) -> OneOrMore:
    """Return lines in image space along x, `geometry.n_x` samples; no-op if it already is.

    Raises
    ------
    GadgetError
        If the readout does not fit the encoded matrix.
    """
    if line.hybrid:
        return line
    kx = centred(line, geometry)
    if not kx.flags.carray:  # torch wants to own it
        kx = kx.copy()
    x = to_pixels(torch.from_numpy(kx), geometry.n_x)
    return replace(line, data=x.numpy(), hybrid=True)
