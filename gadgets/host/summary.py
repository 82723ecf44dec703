"""What a scan's record sums up: asked for, applied and received, slice by slice."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..mrd.geometry import Geometry
from ..mrd.header_layouts import ImageKey, flags_of, image_key, is_imaging
from ..mrd.image_attributes import MASK_ROLE
from ..mrd.items import Acquisition, Burst, Frame, Image, Item, Mask

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Ledger:
    """What passed through a session, without arrays."""

    received: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    begun: set[ImageKey] = field(default_factory=set)  # images of which lines came
    masks: list[Mask] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    recon_ms: dict[tuple[int, int], float] = field(default_factory=dict)
    n_images: int = 0
    n_mask_images: int = 0  # of these, those that show a mask

    def line(self, line: Acquisition) -> None:
        """Note a line that arrived."""
        header = line.header
        if is_imaging(flags_of(header)):
            self._rows(header).add(int(header["kspace_encode_step_1"]))

    def burst(self, burst: Burst) -> None:
        """Note lines that arrived together."""
        self._rows(burst.header).update(burst.counters.tolist())

    def missing(self) -> list[ImageKey]:
        """Return the images of which lines came and no frame; other encodings make none."""
        begun = {key for key in self.begun if key.encoding == 0}
        return sorted(begun - {frame.key for frame in self.frames})

    def item(self, item: Item) -> None:
        """Note what the front made of the lines."""
        if isinstance(item, Mask):
            self.masks.append(item)
        elif isinstance(item, Frame):
            self.frames.append(replace(item, kspace=np.zeros((0, 0, 0), np.complex64)))

    def image(self, image: Image) -> None:
        """Note how long an image took."""
        ms = image.meta.get("mnet_recon_ms")
        if ms is not None:
            scope = int(image.header["slice"]), int(image.header["repetition"])
            self.recon_ms[scope] = float(ms)

    def sent(self, image: Image) -> None:
        """Note and log that an image leaves."""
        self.n_images += 1
        self.n_mask_images += image.meta.get("DataRole") == MASK_ROLE
        at = int(image.header["slice"]), int(image.header["repetition"])
        log.info("image of slice %d, repetition %d", *at)

    def _rows(self, header: np.void) -> set[int]:
        """Note which image a line is of, and return the counters of its slice so far."""
        key = image_key(header)
        self.begun.add(key)
        return self.received.setdefault((key.slice, key.repetition), set())


def summary(
    geometry: Geometry, ledger: Ledger, counts: dict[str, int], started: float, error: str
) -> dict[str, Any]:
    """Put together what was asked for, applied and received, slice by slice."""
    slices = []
    frames: dict[tuple[int, int], Frame] = {}  # of several contrasts, an incomplete one if any
    for one in ledger.frames:
        scope = one.key.slice, one.key.repetition
        if scope not in frames or "incomplete" in one.meta:
            frames[scope] = one
    masks = {(m.key.slice, m.key.repetition): m for m in ledger.masks}
    for scope in sorted(ledger.received):
        frame, mask = frames.get(scope), masks.get(scope)
        entry: dict[str, Any] = {
            "slice": scope[0],
            "repetition": scope[1],
            "received": sorted(ledger.received[scope]),
            "complete": frame is not None and "incomplete" not in frame.meta,
            "recon_ms": ledger.recon_ms.get(scope),
        }
        if mask is not None:
            entry |= {
                "asked": mask.counters.tolist(),
                "sent": mask.sent,
                "predicted_because": mask.reason,
                "choice": mask.choice,
                "guard": mask.guard,
                "mask_ms": 1e3 * mask.seconds,
                "model": mask.model,
            }
            if mask.fallback is not None:
                entry["fallback_mask"] = mask.fallback.tolist()
        if frame is not None:
            entry |= {k: frame.meta[k] for k in ("fallback", "reason") if k in frame.meta}
        slices.append(entry)
    return {
        "started": started,
        "seconds": time.time() - started,
        "measurement_id": geometry.measurement_id,
        "scan_token": geometry.scan_token,
        "error": error,
        "images": ledger.n_images,
        "counts": counts,
        "slices": slices,
    }


def tell(ledger: Ledger, counts: dict[str, int]) -> None:
    """Log what a scan was, and as a warning whatever of it did not become an image."""
    n_lines = sum(len(counters) for counters in ledger.received.values())
    odd = [f"{n} {what}" for what, n in sorted(counts.items()) if n]
    log.log(
        logging.WARNING if odd else logging.INFO,
        "the scan ended: %s",
        "; ".join([f"{n_lines} lines, {ledger.n_images} images", *odd]),
    )


_LISTED = 5  # images that are named one by one
_MORE = (
    "averages and echoes beyond what the header announces (limits of average, contrast, ...) are "
    "not used"
)
_WHY = {
    "doubled lines": f"they came again with equal counters: {_MORE}",
    "lines after their frame was complete": f"the image was made without them: {_MORE}",
    "lines of other encoding spaces": (
        "images are made of one encoding space, and reference lines of another serve only where "
        "its field of view is the image's"
    ),
    "lines of a partial echo": (
        "one side of their readout is empty; nothing here makes up for it: images are blurred "
        "along the readout, and coil maps worse"
    ),
    "frames with their strongest line away from the header's centre": (
        "a wrong centre shifts k-space; `--header ky_center=COUNTER` of mnet replay and convert "
        "sets another"
    ),
}


def remarks(
    ledger: Ledger, counts: Mapping[str, int], geometry: Geometry, *, makes_images: bool
) -> str:
    """Return what of a scan did not become an image and why, one sentence a line; "" if nothing.

    Of a pipeline that `makes_images`, slices without one are named.
    """
    said = [*geometry.notes]
    for what, n in sorted(counts.items()):
        if n:
            why = f": {_WHY[what]}" if what in _WHY else ""
            said.append(f"{n} {what}{why}")
    if makes_images:
        said += _missing(ledger, geometry)
    lost = [mask for mask in ledger.masks if not mask.sent and not mask.enforced]
    reasons = sorted({mask.reason for mask in lost} - {"predicted"})
    if reasons:
        said.append(f"{len(lost)} masks reached no sequence: {', '.join(reasons)}")
    if makes_images and ledger.received and ledger.n_images == ledger.n_mask_images:
        said.append("no image was made")
    return "\n".join(said)


def _missing(ledger: Ledger, geometry: Geometry) -> list[str]:
    missing = ledger.missing()
    said = []
    for key in missing[:_LISTED]:
        n = len(ledger.received.get((key.slice, key.repetition), ()))
        said.append(
            f"slice {key.slice}, contrast {key.contrast}, repetition {key.repetition}: no image, "
            f"{n} lines came, expected {geometry.limit_counters.size} or those of its mask"
        )
    if len(missing) > _LISTED:
        said.append(f"and {len(missing) - _LISTED} more images of which lines are missing")
    return said
