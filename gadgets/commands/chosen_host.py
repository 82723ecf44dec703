"""The host that a command speaks to: one that runs, or one of its own."""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .values import parts

OUTPUT = "keep the images: a name in .h5, .nii.gz or .png, or a folder for DICOM"


@contextmanager
def chosen_host(options: argparse.Namespace) -> Iterator[tuple[Any, Path | None]]:
    """Give the address of the host to use, and its records where they can be read."""
    from ..host.child_host import Address, private_host
    from ..mask.curve_keys import ClientKeys

    if options.host:
        host, port = parts(options.host)
        yield (
            Address(
                host=host,
                port=port,
                mask_endpoint=options.mask_endpoint or "",
                mask_keys=ClientKeys.load(options.mask_keys) if options.mask_keys else None,
            ),
            options.records,
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        records = options.records or Path(folder)
        print("starting a host", file=sys.stderr)
        with private_host(
            records,
            device=options.device,
            pipelines=options.pipelines,
            gadgets=options.gadgets,
        ) as address:
            yield address, records
