"""What every acquisition must be before a gadget sees it: of the coils announced, and in range."""

import logging
from collections.abc import Generator, Iterable, Iterator

import numpy as np

from ..errors import GadgetError
from ..mrd.header_layouts import Flag, flags_of, is_imaging
from ..mrd.items import Acquisition, Burst, Item
from .scan import Scan

log = logging.getLogger(__name__)
OTHER_COILS = "readouts of other coils than the image's"
OUT_OF_RANGE = "lines with NaN, infinity or a power over 1e30"
# Of a line, in whatever unit: a volume's power, in single precision, has room for 1e8 such lines.
MOST_POWER = 1e30


def intake(scan: Scan, items: Iterable[Item]) -> Generator[Item, None, None]:
    """Check every acquisition before a gadget sees it, and hold the turn until the next is wanted.

    Close it where the items are not taken to their end.

    Image lines and reference lines with another coil count than the header's, or without one the
    first image line's, end the scan. Other readouts with another count, such as a prescan of the
    body coil or noise, are dropped and counted. So is a line with a NaN, or with values whose
    squares overflow where they are summed: it would spread over the whole image.
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
    """Give lines of the expected coils and of a sound power, and count the others."""
    for line in lines:
        if line.data.shape[-2] != expected:
            scan.counts[OTHER_COILS] += 1
        elif np.vdot(line.data, line.data).real <= MOST_POWER:  # NaN is not
            yield line
        elif isinstance(line, Burst):
            yield from _fitting(scan, line.lines(), expected)
        else:
            scan.counts[OUT_OF_RANGE] += 1
