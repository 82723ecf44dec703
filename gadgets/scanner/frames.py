"""From lines to frames, as the host makes them: whitened, in hybrid space, averages combined."""

from collections.abc import Sequence

import numpy as np

from ..mrd.geometry import Geometry
from ..mrd.items import Acquisition, Complex, Frame
from ..pipeline.chain import run
from ..pipeline.scan import Scan
from ..steps.accumulate import AccumulateFrame
from ..steps.noise_adjust import NoiseAdjust
from ..steps.readout import RemoveReadoutOversampling


def frames_of(acquisitions: Sequence[Acquisition], geometry: Geometry) -> list[Frame]:
    """Return a frame for every image of which there are lines, repetition after repetition."""
    gadgets = (NoiseAdjust(), RemoveReadoutOversampling(), AccumulateFrame(allow_incomplete=True))
    items = run(gadgets, Scan(geometry=geometry), acquisitions)
    frames = [item for item in items if isinstance(item, Frame)]
    return sorted(frames, key=lambda f: (f.key.repetition, f.key.slice, f.key.contrast))


def lines_in_place(
    acquisitions: Sequence[Acquisition], geometry: Geometry, slices: Sequence[int]
) -> Complex:
    """Return k-space (slices, coils, x, ky) of lines, the noise before them, zero where none is."""
    gadgets = (NoiseAdjust(), RemoveReadoutOversampling())
    items = run(gadgets, Scan(geometry=geometry), acquisitions)
    lines = [item for item in items if isinstance(item, Acquisition)]
    shape = (len(slices), *lines[0].data.shape, geometry.n_ky)
    kspace: Complex = np.zeros(shape, np.complex64)
    for line in lines:
        row = geometry.row(line.header["kspace_encode_step_1"])
        kspace[slices.index(int(line.header["slice"])), :, :, row] = line.data
    return kspace
