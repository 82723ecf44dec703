"""Gadgetron's own reconstruction of fully sampled lines: transform, root of sum of squares."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mnet.physics.fourier import inverse_fourier

from ..errors import GadgetError
from ..mrd.items import Frame, Image, Item, PreScan
from ..pipeline.gadget import Gadget
from ..pipeline.scan import Scan
from .accumulate import AccumulateFrame
from .image_finish import CXFLOAT, directions, image_header


@dataclass(frozen=True, kw_only=True)
class TriggerFrames(AccumulateFrame):
    """Collect the lines of an image, and end the scan with an error where some are missing.

    A frame ends with its last-in-slice flag or with all lines of the encoding limits: earlier than
    at a trigger, which waits for the next image's first line.
    """

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Yield whole frames; GadgetError at the end if there were others."""
        yield from super().__call__(scan, items)
        if n := scan.counts["incomplete frames"]:
            raise GadgetError(
                f"{n} images are incomplete and were not made: lines of the encoding limits are "
                "missing, and none was flagged as the last one of its slice"
            )


@dataclass(frozen=True, kw_only=True)
class SimpleRecon(Gadget):
    """Turn a frame into a complex image of its magnitude: zeros where no line arrived.

    The whole encoded field of view along y is kept, as its matrix is, and the header says so.
    """

    heavy = True

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Yield one image per frame; its index runs on over the scan."""
        index = 0
        for item in items:
            if isinstance(item, Frame):
                index += 1
                yield _image(scan, item, index)
            elif not isinstance(item, PreScan):
                yield item


def _image(scan: Scan, frame: Frame, index: int) -> Image:
    geometry = scan.geometry
    coils = inverse_fourier(torch.from_numpy(frame.kspace), 2).numpy()
    pixels = np.sqrt((np.abs(coils) ** 2).sum(0)).astype(np.complex64)
    header = image_header(frame.header, geometry, pixels.shape, 0, index)
    header["data_type"] = CXFLOAT
    header["field_of_view"] = (
        geometry.recon_fov[0],
        geometry.encoded_fov[1],
        geometry.recon_fov[2],
    )
    n_lines, n_all = int(frame.mask.sum()), geometry.limit_counters.size
    meta = directions(frame.header)
    if n_lines < n_all:
        meta |= dict.fromkeys(
            ("ImageComments", "GADGETRON_ImageComment"), f"zero-filled: {n_lines} of {n_all} lines"
        )
    return Image(header=header, data=np.ascontiguousarray(pixels.T[None, None]), meta=meta)
