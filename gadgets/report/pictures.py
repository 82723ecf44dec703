"""Pictures inside an HTML page: PNG as text, paths for SVG; no plotting library is needed."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from mnet.masks.line_plan import Bool, LinePlan

Floats = NDArray[np.floating]

# Anchors of an error scale: black, violet, red, orange, pale yellow; brightness rises evenly.
_HOT = np.array([(0, 0, 4), (75, 12, 107), (165, 44, 96), (237, 105, 37), (252, 255, 164)])


def grey_png(image: Floats, white: float) -> str:
    """Return the data URI of an image (rows, columns), black at 0 and white at `white`."""
    return png_uri(png(_quantise(image, white)[..., None]))


def heat_png(image: Floats, top: float) -> str:
    """Return the data URI of an error map (rows, columns) from 0 to `top`."""
    return png_uri(png(_ramp(256)[_quantise(image, top)]))


def heat_css() -> str:
    """Return the error scale from left to right as a CSS gradient."""
    colours = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in _ramp(9))
    return f"linear-gradient(90deg, {colours})"


def png_uri(png: bytes) -> str:
    """Return a PNG as a data URI, which needs no file beside the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def mask_paths(mask: Bool, plan: LinePlan, prior: Bool | None = None) -> dict[str, str]:
    """Draw the rows (ky,) of a mask as bars: SVG paths by class, one unit to the right per row.

    `shut` cannot be acquired, `cal` is calibration, `line` is in `prior` too, `new` is not; without
    `prior` no line is new.
    """
    known = np.ones_like(mask) if prior is None else prior
    taken = mask & ~plan.calibration
    kinds = {"shut": ~plan.acquirable, "cal": mask & plan.calibration, "line": taken & known}
    kinds["new"] = taken & ~known
    return {kind: _bars(rows) for kind, rows in kinds.items()}


def _bars(rows: Bool) -> str:
    return "".join(f"M{i + 0.5:g} 0v20" for i in np.flatnonzero(rows))


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


def png(pixels: NDArray[np.uint8]) -> bytes:
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
