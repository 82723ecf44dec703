"""Pictures side by side: a page of slices as one PNG, or as HTML with a caption under each."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..report.pictures import png_bytes, png_uri

Grey = NDArray[np.uint8]
_GAP = 2  # pixels between pictures
_ROOM = 1600  # pixels that a page of pictures is wide at most, as long as one picture fits
_SMALL = 256  # pixels: pictures with a shorter long side are enlarged by a whole factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Grey values, and what they show."""

    pixels: Grey  # (rows, columns)
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Pictures that belong together."""

    title: str
    pictures: tuple[Picture, ...]
    words: str = ""  # above them


def grey(values: NDArray[np.generic], low: float, high: float) -> Grey:
    """Return values as grey, black at `low` and white at `high`; NaN is black."""
    scaled = (np.nan_to_num(np.asarray(values, np.float64), nan=low) - low) / max(high - low, 1e-30)
    pixels: Grey = (scaled.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


def write_png(path: Path, sections: Sequence[Section]) -> None:
    """Write all pictures on one page, row by row, a grey line between sections."""
    rows = [_tiled([_enlarged(p.pixels) for p in section.pictures]) for section in sections]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows]
    line = np.full((_GAP, width), 128, np.uint8)
    page = np.concatenate([part for row in padded for part in (row, line)][:-1])
    path.write_bytes(png_bytes(page[..., None]))


def write_html(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write a page that needs no other file."""
    body = "\n".join(_section(section) for section in sections)
    path.write_text(
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n"
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n",
        encoding="utf-8",
    )


_STYLE = (
    "body{font:15px/1.4 sans-serif;margin:1.5em;background:#111;color:#ddd}"
    "section{display:flex;flex-wrap:wrap;gap:.7em}figure{margin:0}"
    "figcaption{font-size:.85em}img{image-rendering:pixelated;display:block;min-width:12em}"
)


def _section(section: Section) -> str:
    figures = "".join(
        f"<figure><img src='{png_uri(png_bytes(picture.pixels[..., None]))}' "
        f"alt='{html.escape(picture.caption, quote=True)}'>"
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
        for picture in section.pictures
    )
    words = f"<p>{html.escape(section.words)}</p>" if section.words else ""
    return f"<h2>{html.escape(section.title)}</h2>{words}<section>{figures}</section>"


def _enlarged(pixels: Grey) -> Grey:
    factor = max(_SMALL // max(pixels.shape), 1)
    return pixels.repeat(factor, 0).repeat(factor, 1)


def _tiled(pictures: Sequence[Grey]) -> Grey:
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    n_columns = max(min(len(pictures), _ROOM // (width + _GAP)), 1)
    n_rows = -(-len(pictures) // n_columns)
    page = np.zeros((n_rows * (height + _GAP), n_columns * (width + _GAP)), np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // n_columns * (height + _GAP), i % n_columns * (width + _GAP)
        page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page[:-_GAP, :-_GAP]
