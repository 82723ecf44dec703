"""`mnet replay`: send a file or a scan record to a host, as the stock client would.

A record of an adaptive scan is played with the hello that its sequence gave, so that the host
predicts again; the masks must then be those of the record. Where the scan was whitened with stored
noise, a readout that stands for it goes ahead, for hosts that do not have it. A scan in two parts
that were merged is played likewise, with the hello in its header.
"""

import logging
import time
import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import HeaderError
from ..files.fastmri import FirstAxis
from ..files.noise_readout import as_readout
from ..files.noise_store import from_json
from ..files.source import NOTHING, Source, open_source
from ..host.child_host import Address
from ..mask.in_band import read_hello
from ..mask.messages import PLAN, Hello, Scope
from ..mask.sequence_port import SequencePort
from ..mrd.geometry import SCAN_TOKEN, parse, text
from ..mrd.header_xml import with_user_parameter
from ..mrd.image_attributes import MASK_ROLE
from ..mrd.items import Image
from ..records.reader import is_record, read_masks
from ..records.writer import NOISE
from ..two_scans.plan import counters_of, lines_by_slice
from .client import MrdClient, answered

log = logging.getLogger(__name__)


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
    hello, recorded = of_record(path) if is_record(path) else (None, {})
    if hello is None and address.mask_endpoint:
        hello, recorded = _of_two_parts(source)
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


def of_record(path: Path) -> tuple[Hello | None, dict[Scope, tuple[int, ...]]]:
    """Return the hello with a new token, and the masks by scope; what cannot be is passed over."""
    hello: Hello | None = None
    masks: dict[Scope, tuple[int, ...]] = {}
    for message in read_masks(path):
        try:
            if message["kind"] == "hello" and message.get("role") == "sequence":
                hello = _hello(message)
            elif message["kind"] == "mask":
                masks[Scope(**message["scope"])] = tuple(message["counters"])
        except (KeyError, TypeError, ValueError) as error:
            log.warning("%s: a %s is damaged: %s", path, message["kind"], error)
    return hello, masks


def _of_two_parts(source: Source) -> tuple[Hello | None, dict[Scope, tuple[int, ...]]]:
    """Return the hello in the header of a merged scan, and the lines of every slice as its mask."""
    path = f"userParameters/userParameterString[name='{PLAN}']/value"
    try:
        plan = text(parse(source.header), path)
    except HeaderError:
        return None, {}  # the host says what is wrong with it
    if plan is None:
        return None, {}
    try:
        hello = replace(read_hello(plan, ""), scan_token=str(uuid.uuid4()))
    except ValueError as error:
        raise HeaderError(f"the MRD header's {PLAN}: {error}") from error
    slices = lines_by_slice(source.acquisitions)
    return hello, {Scope(slice=n): tuple(counters_of(lines)) for n, lines in slices.items()}


def _hello(message: dict[str, Any]) -> Hello:
    names = [field.name for field in fields(Hello)]
    known = {name: _tuple(message[name]) for name in names if name in message}
    return Hello(**{**known, "scan_token": str(uuid.uuid4())})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
