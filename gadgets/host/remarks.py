"""What a client is told at the end of a scan that did not become images as a whole.

One TEXT, in sentences, so that whoever looks at the client need not look for the host's log.
"""

from collections.abc import Mapping

from ..mrd.complete import OFF_CENTRE
from ..mrd.echo import PARTIAL
from ..mrd.geometry import Geometry
from .summary import Ledger

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
    PARTIAL: (
        "one side of their readout is empty and nothing is put there: images are blurred along "
        "the readout"
    ),
    OFF_CENTRE: (
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
