"""What every acquisition must be before a gadget sees it: of the coils announced, and finite."""

import logging
import math
from collections.abc import Generator, Iterable, Iterator

import numpy as np

from ..errors import GadgetError
from ..mrd.header_layouts import Flag, flags_of, is_imaging
from ..mrd.items import Acquisition, Burst, Complex, Item
from .scan import Scan

log = logging.getLogger(__name__)
OTHER_COILS = "readouts of other coils than the image's"


def intake(scan: Scan, items: Iterable[Item]) -> Generator[Item, None, None]:
    """Check every acquisition before a gadget sees it, and hold the turn until the next is wanted.

    Close it where the items are not taken to their end.

    Image lines and reference lines with another coil count than the header's, or without one the
    first image line's, end the scan. Other readouts with another count, such as a prescan of the
    body coil or noise, are dropped and counted. So is a line with a NaN, for it would spread over
    the whole image.
    """
    for note in scan.geometry.notes:
        log.warning("%s", note)
    expected = scan.geometry.n_coils
    held: list[Acquisition] = []  # before it is known how many coils the image has
    for item in items:
        with scan.turn.held(urgent=scan.arrived(item)):
            if not isinstance(item, Acquisition | Burst):
                yield item
                continue
            image = is_imaging(flags_of(item.header) & ~Flag.CALIBRATION)
            if expected is None:
                if not image and isinstance(item, Acquisition):
                    held.append(item)
                    continue
                expected = item.data.shape[-2]
                yield from _fitting(scan, held, expected)
                held.clear()
            n_coils = item.data.shape[-2]
            if n_coils != expected and image:
                raise GadgetError(
                    f"acquisition {int(item.header['scan_counter'])} has {n_coils} coils, "
                    f"expected {expected} (receiverChannels of the header, or the first image line)"
                )
            yield from _fitting(scan, [item], expected)
    yield from held  # a noise measurement on its own


def _fitting(
    scan: Scan, lines: Iterable[Acquisition | Burst], expected: int
) -> Iterator[Acquisition | Burst]:
    """Give lines of the expected coils that are finite, and count the others."""
    for line in lines:
        if line.data.shape[-2] != expected:
            scan.counts[OTHER_COILS] += 1
        elif _finite(line.data):
            yield line
        elif isinstance(line, Burst):
            yield from _fitting(scan, line.lines(), expected)
        else:
            scan.counts["lines with NaN"] += 1


def _finite(data: Complex) -> bool:
    """Say whether all samples are; their power tells it nearly always, at a fifth of the cost."""
    return math.isfinite(np.vdot(data, data).real) or bool(np.isfinite(data).all())
