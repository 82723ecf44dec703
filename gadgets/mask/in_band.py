"""Masks on the MRD connection itself, for a sequence that cannot reach the mask channel.

It is opted into twice: the pipeline's `PredictMask` has `feedback="mrd1028"`, and the client says
its hello as JSON, in the MRD header's userParameterString `mnet_hello` or, in FIRE's dialect, as
the parameter of that name. Without both nothing is sent, for clients that did not ask for message
1028 break at it. A mask is a message 1028 named `AdaptiveMask`: u32 length of the header, header
and payload as on the mask channel. It comes once; there is no answer, and what was applied is seen
from the lines.
"""

import json
import logging
import struct
from collections.abc import Callable

from ..errors import GadgetsError, place_of
from ..mrd.messages import Feedback
from .codec import MAGIC, Codec, pack_bitmap
from .messages import IN_BAND_HELLO, SCHEMA_ID, Hello, MaskMessage, Message, Welcome
from .recon_end import Observer, ReconLink, Unpaired

log = logging.getLogger(__name__)
NAME = "AdaptiveMask"
_LARGEST_COUNTER = 65535
_DEFAULTS = {
    "schema": SCHEMA_ID,
    "kind": "hello",
    "role": "sequence",
    "group_size": 1,
    "repetition": "first",
    "scanner": "",
}


def read_hello(text: str, scan_token: str) -> Hello:
    """Read a hello: the mask channel's header, with `acquirable` and `fallback` as lists.

    `scan_token` stands in where the text has none.

    Raises
    ------
    ValueError
        If it is not JSON, not as the schema says, or contradicts itself.
    """
    try:
        header = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested too deeply: {error}") from error
    if not isinstance(header, dict):
        raise ValueError("expected a JSON object")
    header = {**_DEFAULTS, "scan_token": scan_token, **header}
    low, high = (_counter(header, name) for name in ("ky_min", "ky_max"))
    if low > high:
        raise ValueError(f"ky_min is {low}, above ky_max, {high}")
    payload = b"".join(
        pack_bitmap(_counters(header, name), low, high) for name in ("acquirable", "fallback")
    )
    hello = Codec().decode([MAGIC, json.dumps(header).encode(), payload])
    if not isinstance(hello, Hello):
        raise ValueError("expected the hello of a sequence")
    return hello


def pack_mask(mask: MaskMessage) -> Feedback:
    """Return a mask as a message of the MRD stream."""
    _, header, payload = Codec().encode(mask)
    return Feedback(NAME, struct.pack("<I", len(header)) + header + payload)


def in_band_link(
    text: str | None,
    scan_token: str | None,
    send: Callable[[Feedback], None],
    observe: Observer | None = None,
) -> ReconLink:
    """Return the link of a scan whose client said `text` as its hello.

    Where it said none, or none that can be read, the link stays unpaired and sends nothing.
    """
    token = scan_token or "in-band"
    hello, reason = None, f"the client sent no {IN_BAND_HELLO}"
    if text is not None:
        try:
            hello = read_hello(text, token)
        except ValueError as error:
            reason = f"{IN_BAND_HELLO}: {error}"
            log.error("no masks are sent, %s is refused: %s", IN_BAND_HELLO, place_of(error))

    def post(message: Message) -> None:
        if not isinstance(message, MaskMessage):
            return  # the profile has no other messages
        try:
            send(pack_mask(message))
        except GadgetsError as error:  # a parent Gadgetron does not take it: the scan goes on
            raise Unpaired(str(error)) from error

    link = ReconLink(token if hello is None else hello.scan_token, post, observe)
    if hello is not None:
        link.receive(hello)
    paired = hello is not None
    link.receive(
        Welcome(
            scan_token=token if hello is None else hello.scan_token,
            paired=paired,
            ready=paired,
            reason="" if paired else reason,
        )
    )
    return link


def _counter(header: dict[str, object], name: str) -> int:
    value = header.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_COUNTER:
        raise ValueError(f"{name}: expected a counter from 0 to {_LARGEST_COUNTER}, got {value!r}")
    return value


def _counters(header: dict[str, object], name: str) -> list[int]:
    """Take a list of different counters out of a header; a bitmap would hide doubled ones."""
    values = header.pop(name, None)
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{name}: expected a list of counters")
    if len(set(values)) != len(values):
        raise ValueError(f"{name}: a counter is there twice")
    return values
