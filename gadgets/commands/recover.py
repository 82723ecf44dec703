"""`mnet recover`: what scans that were cut off left on record, and the images of what is whole."""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, GadgetsError, ProtocolError

if TYPE_CHECKING:
    from ..mask.recon_end import ReconLink
    from ..mrd.items import Image, Item
    from ..pipeline.catalogue import Catalogue

IMAGES = "images.h5"
RECOVERED = "recovered"  # the state of a summary


def add(adder: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = adder(
        "recover",
        run,
        "Reconstruct what is complete of scans that were interrupted.",
        "Looks through the records of a host for scans without an end: it was killed, or the\n"
        "machine lost its power. Complete slices are reconstructed with the scan's own pipeline\n"
        f"into {IMAGES} beside the record, whose messages stay as they are. Scans that still\n"
        "run are left alone. Exit status 1 where a record cannot be reconstructed.\n\n"
        "example: mnet recover /var/lib/mnet/records",
    )
    command.add_argument("records", type=Path, help="the folder of records, or one record")
    command.add_argument("--list", action="store_true", help="only say which they are")
    command.add_argument("--config", help="pipeline for records that do not say theirs")
    command.add_argument("--device", default="cpu", help="cpu or cuda:N (default cpu)")
    command.add_argument("--gadgets", type=Path, help="folder of gadgets beside ours")


def run(options: argparse.Namespace) -> int:
    """List interrupted scans, and reconstruct them unless told otherwise."""
    found = interrupted(options.records)
    if not found:
        print(f"no interrupted scan in {options.records}")
    failed = False
    for folder in found:
        try:
            n, last = _lines(folder)
            how_far = f"{n} lines, the last of scan_counter {last}" if n else "its first line"
            print(f"{folder.name}: interrupted {'after' if n else 'before'} {how_far}")
            if n and not options.list:
                print(f"{folder.name}: {_recovered(folder, options)}")
        except (GadgetsError, OSError) as error:
            failed = True
            print(f"{folder.name}: {error}")
    return 1 if failed else 0


def interrupted(records: Path) -> list[Path]:
    """Return the records whose scan has no end and is not running; ConfigError for no folder."""
    from ..records.reader import is_being_written, is_record, read_summary
    from ..records.writer import RUNNING

    if not records.is_dir():
        raise ConfigError(f"{records} is no folder")
    found = []
    for folder in [records] if is_record(records) else sorted(records.iterdir()):
        if is_record(folder) and not is_being_written(folder):
            summary = read_summary(folder)
            if not summary or summary.get("state") == RUNNING:
                found.append(folder)
    return found


def reconstruct(
    folder: Path, xml: str, *, device: str = "cpu", catalogue: "Catalogue | None" = None
) -> tuple[list["Image"], int]:
    """Run a pipeline on a record; return its images, and how many masks were others than then.

    Raises
    ------
    ProtocolError
        If the record holds no MRD header.
    GadgetsError
        As the host does.
    """
    from ..mrd.geometry import Geometry
    from ..mrd.items import Image, Mask
    from ..mrd.messages import Header
    from ..pipeline.build import parse_stream
    from ..pipeline.catalogue import OURS
    from ..pipeline.chain import chain
    from ..pipeline.intake import intake
    from ..pipeline.models import Models
    from ..pipeline.scan import Scan
    from ..records.reader import read_record
    from ..scanner.replay import of_record

    messages = read_record(folder)
    header = next((m.xml for m in messages if isinstance(m, Header)), None)
    if header is None:
        raise ProtocolError("the record ends before the MRD header")
    hello, masks = of_record(folder)
    scan = Scan(
        geometry=Geometry.parse(header),
        models=Models(device),
        device=device,
        masks=None if hello is None else _link(folder, hello),
    )
    gadgets = parse_stream(xml, OURS if catalogue is None else catalogue).gadgets
    then = {(scope.slice, scope.repetition): counters for scope, counters in masks.items()}
    images, n_others = [], 0
    for item in chain(gadgets, scan, intake(scan, _items(folder, messages))):
        if isinstance(item, Image):
            images.append(item)
        elif isinstance(item, Mask):
            recorded = then.get((item.key.slice, item.key.repetition))
            n_others += recorded is not None and recorded != tuple(item.counters.tolist())
    return images, n_others


def _items(folder: Path, messages: Iterator[Any]) -> Iterator["Item"]:
    """Give what a pipeline takes, the noise that the scan was whitened with first."""
    from ..files.noise_readout import as_readout
    from ..files.noise_store import from_json
    from ..mrd.items import Acquisition, Waveform
    from ..records.writer import NOISE

    if (folder / NOISE).is_file():
        yield as_readout(from_json((folder / NOISE).read_text("utf-8")))
    for message in messages:
        if isinstance(message, Acquisition | Waveform):
            yield message


def _link(folder: Path, hello: Any) -> "ReconLink":
    """Return a link to the sequence as it spoke then; what is sent to it goes nowhere."""
    from ..mask.messages import Applied, Scope, Welcome
    from ..mask.recon_end import ReconLink
    from ..records.reader import read_masks

    link = ReconLink(hello.scan_token, lambda message: None)
    link.receive(hello)
    link.receive(Welcome(scan_token=hello.scan_token, paired=True, ready=True, reason=""))
    for said in read_masks(folder):
        if said["kind"] != "applied":
            continue
        with suppress(KeyError, TypeError):  # damaged: then the lines decide which mask it was
            link.receive(
                Applied(
                    scan_token=hello.scan_token,
                    scope=Scope(**said["scope"]),
                    ky_min=said["ky_min"],
                    ky_max=said["ky_max"],
                    counters=tuple(said["counters"]),
                    fallback=said["fallback"],
                    reason=said["reason"],
                )
            )
    return link


def _lines(folder: Path) -> tuple[int, int]:
    """Return how many lines a scan has recorded, and the last one's scan_counter."""
    from ..mrd.items import Acquisition
    from ..records.reader import read_record

    n, last = 0, 0
    for message in read_record(folder):
        if isinstance(message, Acquisition):
            n, last = n + 1, int(message.header["scan_counter"])
    return n, last


def _recovered(folder: Path, options: argparse.Namespace) -> str:
    """Reconstruct a record, and note it in its summary; returns what was made."""
    from ..files.source import write_images
    from ..pipeline.build import load
    from ..pipeline.own_gadgets import own_gadgets
    from ..records.reader import read_summary
    from ..records.writer import SUMMARY

    summary = read_summary(folder)
    xml = str(summary.get("pipeline") or "")
    if not xml and options.config is None:
        raise ConfigError("the record does not say its pipeline: name one with --config")
    images, n_others = reconstruct(
        folder,
        xml or load(options.config),
        device=options.device,
        catalogue=own_gadgets(options.gadgets) if options.gadgets else None,
    )
    if images:
        (folder / IMAGES).unlink(missing_ok=True)
        write_images(folder / IMAGES, images, "mnet")
    part = (folder / SUMMARY).with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(summary | {"state": RECOVERED, "images": len(images)}, file, indent=1)
        file.write("\n")
    os.replace(part, folder / SUMMARY)
    where = f" in {folder / IMAGES}" if images else ", no slice is complete"
    others = f"; {n_others} masks are others than then: the weights have changed"
    return f"{len(images)} images{where}" + (others if n_others else "")
