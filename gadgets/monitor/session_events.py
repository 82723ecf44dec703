"""What a session tells: where lines belong, which mask and why, images without who is in them.

Free text of a client or a sequence is never told, as it may name a patient: only words of ours.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..host.connection import words_of
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import ImageKey, flags_of, image_key, is_imaging
from ..mrd.items import Acquisition, Burst, Frame, Image, Item, Mask
from .feed import Feed, Json

Message = TypeVar("Message")
MOST_PIXELS = 256  # along either side of what is shown
WHITE = 0.995  # the share of pixels that are not brighter than white
SHOWN = {0, 1, 10}  # image series: Gadgetron's first, ours, and that of incomplete frames


class SessionEvents:
    """Tells of one session, known by its random id; `gadgets.host.prometheus.Watch`."""

    def __init__(self, feed: Feed, session: str) -> None:
        self._feed, self._session = feed, session
        self._scopes: dict[str, tuple[int, int]] = {}  # of masks on their way, by message

    def begun(self, geometry: Geometry, pipeline: str) -> None:
        """Tell that a scan begins."""
        self._tell(
            "begun",
            pipeline=pipeline,
            ky_min=geometry.ky_min,
            ky_max=geometry.ky_max,
            center=geometry.center,
            slices=geometry.n_slices,
            repetitions=geometry.n_repetitions,
        )

    def passing(self, arrived: Iterator[Message]) -> Iterator[Message]:
        """Give what arrives, and tell of it when it has been dealt with.

        A line that a mask waited for is told of when the mask has left.
        """
        for message in arrived:
            yield message
            if isinstance(message, Acquisition | Burst) and is_imaging(flags_of(message.header)):
                self._lines(message)

    def _lines(self, lines: Acquisition | Burst) -> None:
        counters = (
            lines.counters.tolist()
            if isinstance(lines, Burst)
            else [int(lines.header["kspace_encode_step_1"])]
        )
        key = image_key(lines.header)
        if key.encoding == 0:
            self._tell("lines", key, counters=counters)

    def item(self, item: Item) -> None:
        """Tell of a mask, and of a frame that is complete."""
        if isinstance(item, Mask):
            self._tell(
                "mask",
                item.key,
                counters=item.counters.tolist(),
                reason=item.reason,
                sent=item.sent,
                enforced=item.enforced,
                choice=item.choice,
                guard=item.guard,
                ms=1e3 * item.seconds,
            )
        elif isinstance(item, Frame):
            meta = item.meta
            self._tell(
                "frame",
                item.key,
                fallback=meta.get("fallback") == "true",
                incomplete=meta.get("incomplete", ""),
            )

    def mask_message(self, direction: str, header: Mapping[str, Any]) -> None:
        """Tell what a sequence says of the masks it takes, refuses and applies."""
        kind = header["kind"]
        if direction == "sent":
            if kind == "mask":
                scope = header["scope"]
                self._scopes[header["message_id"]] = scope["slice"], scope["repetition"]
        elif kind == "hello":
            names = ("acquirable", "calibration", "n_lines", "deadline_ms", "repetition")
            self._tell("hello", **{name: header[name] for name in names})
        elif kind == "applied":
            told = {"fallback": header["fallback"], "counters": header["counters"]}
            self._tell("applied", **header["scope"], **told)
        elif kind == "nack" and header["message_id"] in self._scopes:
            slice_, repetition = self._scopes[header["message_id"]]
            self._tell("nack", slice=slice_, repetition=repetition, reason=header["reason"])

    def image(self, image: Image) -> None:
        """Tell of an image of the first series, made small enough to hand over."""
        header = image.header
        if int(header["image_series_index"]) not in SHOWN:
            return
        pixels = small(image.data[0, 0])
        self._tell(
            "image",
            pixels=pixels.tobytes(),
            slice=int(header["slice"]),
            repetition=int(header["repetition"]),
            height=pixels.shape[0],
            width=pixels.shape[1],
            ms=image.meta.get("mnet_recon_ms"),
        )

    def counts(self, counts: Mapping[str, int]) -> None:
        """Tell that a scan has ended, and what it counted of lines that fit nowhere."""
        self._tell("ended", counts={what: n for what, n in counts.items() if n})

    def failed(self, error: BaseException) -> None:
        """Tell what ended the session, in the words that its client got."""
        self._tell("failed", words=words_of(error))

    def _tell(
        self, kind: str, key: ImageKey | None = None, *, pixels: bytes = b"", **what: Any
    ) -> None:
        event: Json = {"kind": kind, "scan": self._session, **what}
        if key is not None:
            event |= {"slice": key.slice, "repetition": key.repetition}
        self._feed.tell(event, pixels)


def small(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the magnitude (rows, columns) of an image at 256 pixels a side at most, 8 bits."""
    step = -(-max(image.shape) // MOST_PIXELS)
    magnitude = np.nan_to_num(np.abs(image[::step, ::step]).astype(np.float32))
    at = int(WHITE * (magnitude.size - 1))
    white = max(float(np.partition(magnitude, at, axis=None)[at]), 1e-20)
    grey: NDArray[np.uint8] = (255 * (magnitude / white).clip(0, 1)).astype(np.uint8)
    return grey
