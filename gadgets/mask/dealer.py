"""Messages over a DEALER, as both connecting ends of the channel send and read them."""

import logging

import zmq

from ..errors import place_of
from .codec import Codec, MaskProtocolError
from .gate import Socket
from .messages import Message

log = logging.getLogger(__name__)


def send(dealer: Socket, codec: Codec, message: Message) -> None:
    """Send a message, or drop it where no binder takes it: the scan goes on without."""
    try:
        dealer.send_multipart(codec.encode(message), zmq.NOBLOCK)
    except zmq.Again:  # the binder is away and the queue full
        log.warning("mask channel: no binder takes %s", type(message).__name__)


def decode(codec: Codec, frames: list[bytes]) -> Message | MaskProtocolError:
    """Return the message, or what is wrong with it."""
    try:
        return codec.decode(frames)
    except MaskProtocolError as error:
        log.warning("mask channel: dropped a message: %s, %s", error.reason, place_of(error))
        return error
