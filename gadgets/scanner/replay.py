"""`mnet replay`: send a file or a scan record to a host, as the stock client would.

A record of an adaptive scan is played with the hello that its sequence gave, so that the host
predicts again; the masks must then be those of the record. Where the scan was whitened with stored
noise, a readout that stands for it goes ahead, for hosts that do not have it.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..files.fastmri import FirstAxis
from ..files.noise_readout import as_readout
from ..files.noise_store import from_json
from ..files.record_writer import MASKS, NOISE
from ..files.scan_record import is_record
from ..files.source import NOTHING, Source, open_source
from ..host.child_host import Address
from ..mask.messages import Hello, Scope
from ..mask.sequence_port import SequencePort
from ..mrd.geometry import SCAN_TOKEN
from ..mrd.header_xml import with_user_parameter
from ..mrd.image_attributes import MASK_ROLE
from ..mrd.items import Image
from .client import MrdClient, answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came back, and how the masks compare with those of a record."""

    n_acquisitions: int
    header: bytes  # XML
    images: list[Image]
    n_masks: int = 0  # in the record
    n_equal: int = 0  # predicted again, line for line

    @property
    def n_shown(self) -> int:
        """How many images show something else than a mask."""
        return sum(image.meta.get("DataRole") != MASK_ROLE for image in self.images)


def replay(
    path: Path,
    address: Address,
    config: str,
    *,
    first_axis: FirstAxis = "slice",
    group: str | None = None,
    header: Mapping[str, str] = NOTHING,
    source: Source | None = None,
) -> Replayed:
    """Send everything, wait for the images, and compare masks where there are any.

    What `first_axis`, `group` and `header` say is for `open_source`; `source` is what it gave,
    where the caller has read the file already.

    Raises
    ------
    PeerError
        If the host reports an error, or nobody answers at the mask endpoint.
    """
    if source is None:
        source = open_source(path, first_axis=first_axis, group=group, header=header)
    hello, recorded = _of_record(path) if is_record(path) else (None, {})
    xml = source.header
    if hello is not None:
        xml = with_user_parameter(xml, SCAN_TOKEN, hello.scan_token)
    opened = (
        nullcontext()
        if hello is None
        else SequencePort(address.mask_endpoint, hello, address.mask_keys)
    )
    with opened as port, MrdClient(address.host, address.port) as client:
        client.start(config, xml)
        if port is not None:
            answered(port, address.mask_endpoint)
            port.wait_ready(60.0)
        if (path / NOISE).is_file():
            client.send(as_readout(from_json((path / NOISE).read_text("utf-8"))))
        client.send_all(source.acquisitions)
        equal = 0
        for scope, counters in recorded.items() if port is not None else ():
            mask = port.poll(scope, time.monotonic() + 10.0) if port is not None else None
            equal += mask is not None and tuple(mask.counters) == counters
        images = client.finish()
    return Replayed(
        n_acquisitions=len(source.acquisitions),
        header=source.header,
        images=images,
        n_masks=len(recorded),
        n_equal=equal,
    )


def _of_record(path: Path) -> tuple[Hello | None, dict[Scope, tuple[int, ...]]]:
    """Return the hello with a new token, and the masks by scope."""
    hello: Hello | None = None
    masks: dict[Scope, tuple[int, ...]] = {}
    for message in _messages(path / MASKS):
        if message["kind"] == "hello" and message.get("role") == "sequence":
            names = [field.name for field in fields(Hello)]
            known = {name: _tuple(message[name]) for name in names if name in message}
            hello = Hello(**{**known, "scan_token": str(uuid.uuid4())})
        elif message["kind"] == "mask":
            masks[Scope(**message["scope"])] = tuple(message["counters"])
    return hello, masks


def _messages(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)["message"]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
