"""Masks for a scan that has measured its calibration and ended, decided as in the stream.

The front of the pipeline runs on the file, with the gadget, the weights, the guard and the checks
of a live scan; its end of the mask channel is the real one, and what it would have sent is kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..errors import ConfigError, IncompleteError
from ..files.source import Source
from ..mask.mask_file import Decided, MaskFile
from ..mask.messages import Hello, Message, Welcome
from ..mask.recon_end import ReconLink
from ..mrd.header_layouts import Flag, is_imaging
from ..mrd.items import Mask
from ..pipeline.chain import chain, split
from ..pipeline.gadget import Gadget
from ..pipeline.intake import intake
from ..pipeline.models import Models
from ..pipeline.scan import Scan
from ..steps.predict_mask import PredictMask
from .plan import hello_of


def decide(
    first: Source,
    pipeline: Iterable[Gadget],
    *,
    acceleration: float | None = None,
    train: int,
) -> MaskFile:
    """Decide a mask for every slice of the first scan.

    A slice whose sampler fails gets the fallback, as a live sequence would have taken it. Raises
    ConfigError where the pipeline predicts no masks, and otherwise what `hello_of` raises.
    """
    front, sampler = _until_mask(split(tuple(pipeline))[0])
    hello = hello_of(first, acceleration=acceleration, train=train)
    models = Models("cpu")
    scan = Scan(geometry=first.geometry, models=models, masks=_link(hello))
    lines = [a for a in first.acquisitions if _wanted(int(a.header["flags"]))]
    items = chain(front, scan, intake(scan, lines))
    masks = {item.key.slice: item for item in items if isinstance(item, Mask)}
    missing = [n for n in range(first.geometry.n_slices) if n not in masks]
    if missing:
        counts = ", ".join(f"{n} {why}" for why, n in scan.counts.items())
        raise IncompleteError(f"slices {missing[:5]} got no mask: {counts or 'lines are missing'}")
    return MaskFile(
        hello=hello,
        sampler_sha256=str(models.get(sampler)[1]["sha256"]),
        slices=tuple(_decided(number, masks[number], hello) for number in sorted(masks)),
    )


def _wanted(flags: int) -> bool:
    return bool(flags & Flag.NOISE) or is_imaging(flags)


def _until_mask(front: Sequence[Gadget]) -> tuple[list[Gadget], str]:
    """Return the gadgets that a mask needs, and its sampler: frames there are none."""
    for number, gadget in enumerate(front):
        if isinstance(gadget, PredictMask):
            live = replace(gadget, mode="prospective", feedback="mask_channel")
            return [*front[:number], live], gadget.sampler
    raise ConfigError("the pipeline has no gadget PredictMask: no mask can be decided with it")


def _link(hello: Hello) -> ReconLink:
    """Return the reconstruction's end of a mask channel that is paired and keeps nothing."""

    def post(message: Message) -> None:
        """Send it nowhere: the gadget's own item tells the mask."""

    link = ReconLink(hello.scan_token, post)
    link.receive(hello)
    link.receive(Welcome(scan_token=hello.scan_token, paired=True, ready=True, reason=""))
    return link


def _decided(number: int, mask: Mask, hello: Hello) -> Decided:
    counters = tuple(int(c) for c in mask.counters) if mask.sent else hello.fallback
    return Decided(
        slice=number,
        counters=counters,
        fallback=not mask.sent,
        reason=mask.reason,
        choice=mask.choice,
        guard=mask.guard,
        seconds=mask.seconds,
    )
