"""What every acquisition must be before a gadget sees it: of the coils announced, and finite."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from ..errors import GadgetError
from ..mrd.items import Acquisition, Burst, Complex, Item
from .scan import Scan


def intake(scan: Scan, items: Iterable[Item]) -> Iterator[Item]:
    """Check every acquisition before a gadget sees it.

    A coil count that differs from the header ends the scan; a line with a NaN is dropped and
    counted, for it would spread over the whole image.
    """
    expected = scan.geometry.n_coils
    for item in items:
        if isinstance(item, Acquisition | Burst):
            n_coils = item.data.shape[-2]
            expected = n_coils if expected is None else expected
            if n_coils != expected:
                raise GadgetError(
                    f"acquisition {int(item.header['scan_counter'])} has {n_coils} coils, "
                    f"expected {expected} (receiverChannels of the header, or the first line)"
                )
            if not _finite(item.data):
                if isinstance(item, Burst):
                    yield from intake(scan, item.lines())
                else:
                    scan.counts["lines with NaN"] += 1
                continue
        yield item


def _finite(data: Complex) -> bool:
    """Say whether all samples are; their power tells it nearly always, at a fifth of the cost."""
    return math.isfinite(np.vdot(data, data).real) or bool(np.isfinite(data).all())
