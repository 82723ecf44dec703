"""`mnet maskd`: the mask channel alone, for a machine where only the C++ Gadgetron runs."""

import logging
import threading
from collections.abc import Callable

from .binder import MaskService
from .curve_keys import ServerKeys

log = logging.getLogger(__name__)


def serve_masks(
    endpoint: str,
    *,
    keys: ServerKeys | None = None,
    ready: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Bind the mask channel and serve until `stop` is set or KeyboardInterrupt.

    `ready` is told the bound endpoint, which matters for port 0. Raises ValueError for an endpoint
    that leaves this machine without keys and zmq.ZMQError for one that is taken.
    """
    with MaskService(endpoint, keys=keys) as service:
        log.info("mask channel adaptive-mask/1 at %s", service.endpoint)
        if ready is not None:
            ready(service.endpoint)
        (stop or threading.Event()).wait()
