"""From lines to frames, as the host makes them: whitened, in hybrid space, averages combined."""

from collections.abc import Sequence

from ..mrd.geometry import Geometry
from ..mrd.items import Acquisition, Frame
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
