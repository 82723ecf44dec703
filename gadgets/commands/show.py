"""`mnet show`: a look at a file, raw data or images."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from .options import add_reading, reading


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = command(
        "show",
        run,
        "Draw what a file holds, as a PNG or as a page of slices.",
        "Raw data: which lines came, k-space (logarithm), all coils together, and each.\n"
        "Images: as they are, with the window that they come with.\n\n"
        "example: mnet show scan.h5                      # writes scan.html\n"
        "         mnet show images.h5 --output page.png",
    )
    parser.add_argument("data", type=Path, help="any file that is read here, or a scan record")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=".html or .png (default DATA's name in .html)"
    )
    add_reading(parser)


def run(options: argparse.Namespace) -> int:
    """Draw, and say where."""
    from ..export.pictures_of import image_sections, raw_sections
    from ..export.sheet import write_html, write_png
    from ..files.image_file import has_images, read_images
    from ..files.source import open_source

    target = options.output or Path(options.data.with_suffix(".html").name)
    if target.suffix not in (".html", ".png"):
        raise ConfigError(f"--output {target}: expected a name in .html or .png")
    if has_images(options.data):
        sections = image_sections(read_images(options.data))
    else:
        sections = raw_sections(open_source(options.data, **reading(options)))
    if target.suffix == ".png":
        write_png(target, sections)
    else:
        write_html(target, options.data.name, sections)
    print(f"{target}: {sum(len(section.pictures) for section in sections)} pictures")
    return 0
