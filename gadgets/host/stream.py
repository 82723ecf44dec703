"""`mnet stream`: a pipeline between two pipes, as `gadgetron --from_stream` is.

The input is an MRD stream, the output the same header, the images as they are made, and CLOSE. Of
an MRD 2 stream the output is one too. A failure leaves the output without its end, so that whoever
reads it sees that it is not whole. Front and heavy end run in this process: nobody waits for a mask
here.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import ConfigError, GadgetError
from ..files.mrd2_stream import MAGIC, Mrd2Reader, Mrd2Writer
from ..files.mrd_stream import read_header, read_items, reader
from ..limits.scan_size import check_header, check_line
from ..limits.settings import DEFAULT, Limits
from ..mrd.geometry import Geometry
from ..mrd.item_bytes import Read
from ..mrd.items import Acquisition, Image, Item, Waveform
from ..mrd.messages import Close, Header, Message, write_message
from ..pipeline.build import parse_stream
from ..pipeline.catalogue import OURS, Catalogue
from ..pipeline.chain import Stream, chain
from ..pipeline.imaging_space import imaging_space_first
from ..pipeline.intake import intake
from ..pipeline.models import Models, chosen_device
from ..pipeline.scan import Scan
from .summary import Ledger, tell

Put = Callable[[Acquisition | Waveform | Image], object]


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

    def start(header: bytes) -> Put:
        def put(message: Message) -> None:
            write(write_message(message))

        put(Header(header))
        return put

    stream = parse_stream(xml, catalogue)
    n_images = _run(read_header(read), read_items(read), start, stream, device, limits)
    write(write_message(Close()))
    return n_images


def run_mrd2(
    source: BinaryIO,
    target: BinaryIO,
    xml: str,
    *,
    device: str = "cpu",
    catalogue: Catalogue = OURS,
    limits: Limits = DEFAULT,
) -> int:
    """Run a pipeline on an MRD 2 stream; as `run_stream`."""
    writers: list[Mrd2Writer] = []

    def start(header: bytes) -> Put:
        writers.append(Mrd2Writer(target, header))
        return writers[0].put

    stream, read = parse_stream(xml, catalogue), Mrd2Reader(source)
    lines = (item for item in read.items() if not isinstance(item, Image))
    n_images = _run(read.header, lines, start, stream, device, limits)
    writers[0].close()
    return n_images


def _run(
    header: bytes,
    items: Iterator[Acquisition | Waveform],
    start: Callable[[bytes], Put],
    stream: Stream,
    device: str,
    limits: Limits,
) -> int:
    """Put the images of a stream; `start` begins the output and returns where they go."""
    header, items = imaging_space_first(header, items)
    geometry = Geometry.parse(header)
    check_header(geometry, limits)
    scan = Scan(geometry=geometry, models=Models(device), device=device)
    ledger = Ledger()
    put = start(header)

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
    device = chosen_device(device)
    try:
        with (
            nullcontext(sys.stdin.buffer) if source is None else source.open("rb") as read,
            nullcontext(sys.stdout.buffer) if target is None else target.open("wb") as out,
        ):

            def write(data: bytes) -> None:
                out.write(data)
                out.flush()  # an image leaves as soon as it is made

            if cast(BufferedReader, read).peek(len(MAGIC)).startswith(MAGIC):
                return run_mrd2(read, out, xml, device=device, catalogue=catalogue, limits=limits)
            return run_stream(
                reader(read), write, xml, device=device, catalogue=catalogue, limits=limits
            )
    except (FileNotFoundError, ConnectionError):
        raise
    except OSError as error:
        raise ConfigError(str(error)) from error
