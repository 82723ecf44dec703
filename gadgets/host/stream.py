"""`mnet stream`: a pipeline between two pipes, as `gadgetron --from_stream` is.

The input is an MRD stream, the output the same header, the images as they are made, and CLOSE. A
failure leaves the output without CLOSE, so that whoever reads it sees that it is not whole. Front
and heavy end run in this process: nobody waits for a mask here.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from ..errors import ConfigError, GadgetError
from ..files.mrd_stream import read_header, read_items, reader
from ..limits.scan_size import check_header, check_line
from ..limits.settings import DEFAULT, Limits
from ..mrd.geometry import Geometry
from ..mrd.item_bytes import Read
from ..mrd.items import Acquisition, Image, Item, Waveform
from ..mrd.messages import Close, Header, Message, write_message
from ..pipeline.build import parse_stream
from ..pipeline.catalogue import OURS, Catalogue
from ..pipeline.chain import chain
from ..pipeline.imaging_space import imaging_space_first
from ..pipeline.intake import intake
from ..pipeline.models import Models
from ..pipeline.scan import Scan
from .summary import Ledger, tell


def run_stream(
    read: Read,
    write: Callable[[bytes], object],
    xml: str,
    *,
    device: str = "cpu",
    catalogue: Catalogue = OURS,
    limits: Limits = DEFAULT,
) -> int:
    """Run a pipeline on a stream; return how many images were written, those of masks aside.

    Raises
    ------
    ProtocolError
        If the input is cut or no MRD stream.
    HeaderError, GadgetError, ConfigError
        As the host does.
    """
    stream = parse_stream(xml, catalogue)
    header, items = imaging_space_first(read_header(read), read_items(read))
    geometry = Geometry.parse(header)
    check_header(geometry, limits)
    scan = Scan(geometry=geometry, models=Models(device), device=device)
    ledger = Ledger()

    def put(message: Message) -> None:
        write(write_message(message))

    put(Header(header))

    def arrived() -> Iterator[Item]:
        for item in items:
            if isinstance(item, Acquisition):
                check_line(geometry, item.data.shape, limits)
                ledger.line(item)
            yield item

    for item in chain(stream.gadgets, scan, intake(scan, arrived())):
        if isinstance(item, Image):
            if Image not in stream.writes:
                raise GadgetError("the pipeline made an image, but lists no ImageWriter")
            put(item)
            ledger.sent(item)
        elif isinstance(item, Acquisition | Waveform) and type(item) in stream.writes:
            put(item)
    put(Close())
    tell(ledger, dict(scan.counts))
    return ledger.n_images - ledger.n_mask_images


def run_files(
    source: Path | None,
    target: Path | None,
    xml: str,
    *,
    device: str = "auto",
    catalogue: Catalogue = OURS,
    limits: Limits = DEFAULT,
) -> int:
    """Run a pipeline from a file or pipe to another, or stdin and stdout; as `run_stream`.

    Raises also ConfigError where a file cannot be opened, and FileNotFoundError.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with (
            nullcontext(sys.stdin.buffer) if source is None else source.open("rb") as read,
            nullcontext(sys.stdout.buffer) if target is None else target.open("wb") as out,
        ):

            def write(data: bytes) -> None:
                out.write(data)
                out.flush()  # an image leaves as soon as it is made

            return run_stream(
                reader(read), write, xml, device=device, catalogue=catalogue, limits=limits
            )
    except (FileNotFoundError, ConnectionError):
        raise
    except OSError as error:
        raise ConfigError(str(error)) from error
