"""Pictures inside an HTML page: PNG and SVG as text, without any plotting library."""

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mnet.masks.line_plan import Bool, LinePlan

Floats = NDArray[np.floating]

# Anchors of an error scale: black, violet, red, orange, pale yellow; brightness rises evenly.
_HOT = np.array([(0, 0, 4), (75, 12, 107), (165, 44, 96), (237, 105, 37), (252, 255, 164)])


def grey_png(image: Floats, white: float) -> str:
    """Return the data URI of an image (rows, columns), black at 0 and white at `white`."""
    return _data_uri(_quantise(image, white)[..., None])


def heat_png(image: Floats, top: float) -> str:
    """Return the data URI of an error map (rows, columns) from 0 to `top`."""
    return _data_uri(_ramp(256)[_quantise(image, top)])


def heat_css() -> str:
    """Return the error scale from left to right as a CSS gradient."""
    colours = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in _ramp(9))
    return f"linear-gradient(90deg, {colours})"


def mask_svg(mask: Bool, plan: LinePlan, prior: Bool | None = None) -> str:
    """Draw the rows (ky,) of a mask as bars, left to right.

    Calibration lines, lines that `prior` has too, and other lines get a class each; rows that
    cannot be acquired are hatched by the pattern of `hatch_svg`, which the page needs once.
    """
    n = mask.size
    known = np.ones_like(mask) if prior is None else prior
    taken = mask & ~plan.calibration
    bars = "".join(
        f'<path class="{name}" d="{_bars(rows)}"/>'
        for name, rows in (
            ("cal", mask & plan.calibration),
            ("line", taken & known),
            ("new", taken & ~known),
        )
        if rows.any()
    )
    hatched = "".join(
        f'<rect x="{a}" width="{b - a}" height="20" fill="url(#hatch)"/>'
        for a, b in _runs(~plan.acquirable)
    )
    return (
        f'<svg class="mask" viewBox="0 0 {n} 20" preserveAspectRatio="none" role="img">'
        f"{hatched}{bars}</svg>"
    )


def hatch_svg() -> str:
    """Define the hatching of `mask_svg`."""
    return (
        '<svg width="0" height="0" style="position:absolute"><defs>'
        '<pattern id="hatch" width="3" height="3" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="3" height="3" fill="#eceef1"/>'
        '<rect width="1" height="3" fill="#b9bfc8"/></pattern></defs></svg>'
    )


def axis_html(n: int, first_counter: int, ticks: Sequence[int]) -> str:
    """Write the counters `ticks` below masks of `n` rows, whose first row is `first_counter`."""
    marks = "".join(
        f'<span style="left:{100 * (tick - first_counter + 0.5) / n:.2f}%">{tick}</span>'
        for tick in ticks
    )
    return f'<div class="axis">{marks}</div>'


def _bars(rows: Bool) -> str:
    return "".join(f"M{i + 0.5:g} 0v20" for i in np.flatnonzero(rows))


def _runs(rows: Bool) -> list[tuple[int, int]]:
    """Return [start, stop) of every run of true rows."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rows.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _quantise(image: Floats, white: float) -> NDArray[np.uint8]:
    # NaN, which no image should hold, shows as white
    filled = np.nan_to_num(np.asarray(image, dtype=float) / max(white, 1e-20), nan=1.0)
    grey: NDArray[np.uint8] = (filled.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return grey


def _ramp(n: int) -> NDArray[np.uint8]:
    places = np.linspace(0, len(_HOT) - 1, n)
    channels = [np.interp(places, np.arange(len(_HOT)), channel) for channel in _HOT.T]
    ramp: NDArray[np.uint8] = np.stack(channels, axis=1).round().astype(np.uint8)
    return ramp


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(pixels)).decode()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels (rows, columns, 1 or 3): the three chunks that a PNG needs (RFC 2083)."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + channels * width), dtype=np.uint8)  # a row begins with filter 0
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
