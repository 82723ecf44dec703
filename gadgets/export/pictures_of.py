"""What a file's content looks like: images as they are, raw data as k-space and coil images."""

from collections.abc import Sequence

import numpy as np
import torch

from mnet.physics.fourier import inverse_fourier

from ..errors import GadgetsError
from ..files.source import Source
from ..mrd.complete import placed
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import Flag, ImageKey, flags_of, image_key, is_imaging
from ..mrd.items import Acquisition, Complex, Image
from .series import LOOPS, Series, stored
from .sheet import Picture, Section, grey

_DECADES = 4.0  # of k-space's magnitude that are shown
_COILS_OF = 4  # slices whose coils are shown one by one, spread over the scan
_BRIGHT = 99.5  # percentile that is white


def image_sections(images: Sequence[Image]) -> list[Section]:
    """Draw every image with the window that it comes with, series by series."""
    found: dict[int, list[Image]] = {}
    for image in images:
        found.setdefault(int(image.header["image_series_index"]), []).append(image)
    return [
        Section(
            title=f"series {number}: {_series_words(members)}",
            pictures=tuple(
                picture for image in members for picture in _image_pictures(number, image)
            ),
        )
        for number, members in sorted(found.items())
    ]


def _series_words(members: list[Image]) -> str:
    described = members[0].meta.get("SeriesDescription", "")
    sizes = {image.data.shape for image in members}
    return ", ".join([*([described] if described else []), f"{len(members)} images", f"{sizes}"])


def _image_pictures(number: int, image: Image) -> list[Picture]:
    header = image.header
    caption = f"slice {int(header['slice'])}" + "".join(
        f", {name} {int(header[name])}" for name in reversed(LOOPS) if int(header[name])
    )
    comment = image.meta.get("ImageComments", "")
    caption += f"; {comment}" if comment else ""
    planes = image.data.reshape(-1, *image.data.shape[-2:])
    pictures = []
    for i, plane in enumerate(planes):
        alone = Image(header=header, data=plane[None, None], meta=image.meta)
        (one,) = stored(Series(number=number, images=(alone,)))
        values = one.pixels * one.slope + one.intercept
        centre, width = one.window
        if image.data.dtype.kind not in "uc" and "WindowWidth" not in image.meta:
            centre, width = (float(np.percentile(values, _BRIGHT)) / 2,) * 2
            width *= 2
        pictures.append(
            Picture(
                pixels=grey(values, centre - width / 2, centre + width / 2),
                caption=caption + (f", plane {i}" if len(planes) > 1 else ""),
            )
        )
    return pictures


def raw_sections(source: Source) -> list[Section]:
    """Draw which lines came, k-space, the root of the sum of squares, and coil images.

    Raises
    ------
    HeaderError
        If the header describes no scan that is read here.
    GadgetError, ProtocolError
        If no line belongs to an image, or one does not fit the header.
    """
    geometry = source.geometry
    groups: dict[ImageKey, list[Acquisition]] = {}
    n_other = 0
    within = set(geometry.limit_counters.tolist())
    for line in source.acquisitions:
        key = image_key(line.header)
        counter = int(line.header["kspace_encode_step_1"])
        if key.encoding == 0 and is_imaging(flags_of(line.header)) and counter in within:
            groups.setdefault(key, []).append(line)
        else:
            n_other += 1
    if not groups:
        raise GadgetsError("none of the lines is of an image: there is nothing to show")
    keys = sorted(groups, key=lambda key: [getattr(key, name) for name in ("repetition", *LOOPS)])
    keys.sort(key=lambda key: (key.repetition, key.contrast, key.phase, key.set, key.slice))
    words = (
        f"{source.kind}: {len(source.acquisitions)} lines, {n_other} of them of no image; "
        f"{len(keys)} images of {geometry.n_x} x {geometry.n_ky}"
    )
    kspaces = {key: placed(groups[key], geometry) for key in keys}  # (ky, coils, kx)
    sections = [
        Section(
            title="lines",
            words=words,
            pictures=tuple(_lines(key, groups[key], geometry) for key in keys),
        ),
        Section(title="k-space, log", pictures=tuple(_kspace(k, kspaces[k]) for k in keys)),
        Section(title="images", pictures=tuple(_rss(k, kspaces[k], geometry) for k in keys)),
    ]
    shown = [keys[i] for i in sorted(set(np.linspace(0, len(keys) - 1, _COILS_OF).astype(int)))]
    for key in shown:
        coils = np.abs(_coil_images(kspaces[key], geometry))
        white = float(np.percentile(coils, _BRIGHT))
        pictures = tuple(
            Picture(pixels=grey(coil.T, 0, white), caption=f"coil {i}")
            for i, coil in enumerate(coils)
        )
        sections.append(Section(title=f"coils of {_words(key)}", pictures=pictures))
    return sections


def _words(key: ImageKey) -> str:
    return f"slice {key.slice}" + "".join(
        f", {name} {getattr(key, name)}" for name in reversed(LOOPS) if getattr(key, name)
    )


def _lines(key: ImageKey, lines: Sequence[Acquisition], geometry: Geometry) -> Picture:
    """Draw the rows of k-space that came: white once, grey for calibration, brighter for more."""
    n = np.zeros(geometry.n_ky)
    calibration = np.zeros(geometry.n_ky, bool)
    for line in lines:
        row = geometry.row(int(line.header["kspace_encode_step_1"]))
        n[row] += 1
        flags = flags_of(line.header)
        calibration[row] |= bool(flags & (Flag.MASK_CALIBRATION | Flag.CALIBRATION_AND_IMAGING))
    came = n > 0
    pixels = np.where(came, np.where(calibration, 160, 255), 0).astype(np.uint8)
    extra = f", {int(n.sum() - came.sum())} doubled" if n.max() > 1 else ""
    return Picture(
        pixels=np.repeat(pixels[:, None], max(geometry.n_ky // 4, 8), axis=1),
        caption=f"{_words(key)}: {int(came.sum())} of {geometry.limit_counters.size} lines, "
        f"{int(calibration.sum())} calibration{extra}",
    )


def _kspace(key: ImageKey, kspace: Complex) -> Picture:
    power = np.sqrt(np.square(np.abs(kspace)).sum(axis=1))  # (ky, kx)
    top = float(power.max()) or 1.0
    decades = np.log10(np.maximum(power / top, 10 ** -(_DECADES + 1)))
    return Picture(pixels=grey(decades, -_DECADES, 0), caption=_words(key))


def _rss(key: ImageKey, kspace: Complex, geometry: Geometry) -> Picture:
    rss = np.sqrt(np.square(np.abs(_coil_images(kspace, geometry))).sum(0))
    return Picture(
        pixels=grey(rss.T, 0, float(np.percentile(rss, _BRIGHT))),
        caption=f"{_words(key)}: root of the sum of squares, zero-filled",
    )


def _coil_images(kspace: Complex, geometry: Geometry) -> Complex:
    """Return (coils, x, y), the oversampling of the readout cropped."""
    along_y = inverse_fourier(torch.from_numpy(kspace.transpose(1, 2, 0).copy()), dim=-1)
    n_kx = kspace.shape[-1]
    x = inverse_fourier(along_y, dim=-2).numpy()
    start = n_kx // 2 - geometry.n_x // 2
    cropped: Complex = x[:, start : start + geometry.n_x]
    return cropped
