"""Reconstructed frames to MRD images: field of view, scale, header and meta data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mnet.physics.fourier import inverse_fourier
from mnet.physics.fov import to_recon_space

from ..errors import GadgetError
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import IMAGE_HEADER
from ..mrd.image_attributes import MASK_ROLE
from ..mrd.items import Complex, Frame, Image, Item, Mask, PreScan
from ..pipeline.gadget import Gadget
from ..pipeline.scan import Scan

SERIES, SERIES_INCOMPLETE, SERIES_MASK = 1, 10, 20
USHORT, FLOAT, CXFLOAT = 1, 5, 7
MAGNITUDE, PHASE, COMPLEX = 1, 2, 5
KINDS = {"magnitude": MAGNITUDE, "phase": PHASE, "complex": COMPLEX}
FULL_SCALE = 4095.0  # what the calibration's brightest pixels become in ushort images
PHASE_STEPS = 4096  # of the full circle in ushort images
GADGETRON = {  # Gadgetron's own names of attributes, written beside the usual ones
    "DataRole": "GADGETRON_DataRole",
    "ImageProcessingHistory": "GADGETRON_ImageProcessingHistory",
    "SeriesDescription": "GADGETRON_SeqDescription",
    "ImageComments": "GADGETRON_ImageComment",
}


@dataclass(frozen=True, kw_only=True)
class ImageFinish(Gadget):
    """Crop to the reconstructed field of view, interpolate to its matrix, and describe.

    Pixel (nx // 2, ny // 2) of an image is at the header's position, x grows along its read_dir
    and y along its phase_dir. ushort magnitudes have one intensity scale for the whole scan, fixed
    by the first calibration, so that they can leave as they are made; float and complex images are
    not scaled. Phase is in radians from -pi, as RescaleSlope and RescaleIntercept say for ushort.
    """

    heavy = True

    # one or more of magnitude, phase, complex: the first is series 1, the next 2
    output: str = "magnitude"
    # pixels: 32-bit floats, unscaled, or 16-bit integers
    dtype: Literal["float", "ushort"] = "float"
    emit_mask_image: bool = True  # the mask as a small image of its own series

    def __post_init__(self) -> None:
        """Refuse unknown kinds and complex integers."""
        kinds = self.output.split()
        if not kinds or not set(kinds) <= set(KINDS) or len(set(kinds)) < len(kinds):
            raise ValueError(
                f"output is {self.output!r}, expected one or more of {', '.join(KINDS)}, "
                "each once, with spaces between"
            )
        if "complex" in kinds and self.dtype == "ushort":
            raise ValueError("complex output has no dtype ushort, expected dtype float")

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Turn frames, and masks if wanted, into images."""
        scale: float | None = None
        index: dict[int, int] = {}
        for item in items:
            if isinstance(item, PreScan):
                scale = scale or FULL_SCALE / _brightest(item.lines, scan.geometry.n_ky)
            elif isinstance(item, Frame):
                if item.image is None:
                    raise GadgetError(
                        "ImageFinish got a frame without image: put Reconstruct first"
                    )
                image = to_recon_matrix(item.image, scan.geometry)
                scale = scale or FULL_SCALE / max(float(np.abs(image).max()), 1e-20)
                first = SERIES_INCOMPLETE if "incomplete" in item.meta else SERIES
                for series, kind in enumerate(self.output.split(), first):
                    index[series] = index.get(series, 0) + 1
                    header = image_header(
                        item.header, scan.geometry, image.shape, series, index[series]
                    )
                    yield self._image(scan, item, image, scale, header, kind)
            elif isinstance(item, Mask):
                if self.emit_mask_image:
                    index[SERIES_MASK] = index.get(SERIES_MASK, 0) + 1
                    yield _mask_image(scan, item, index[SERIES_MASK])
            else:
                yield item

    def _image(
        self, scan: Scan, frame: Frame, image: Complex, scale: float, header: np.void, kind: str
    ) -> Image:
        pixels = np.ascontiguousarray(image.T[None, None])
        integers = self.dtype == "ushort"
        header["image_type"] = KINDS[kind]
        header["data_type"] = USHORT if integers else CXFLOAT if kind == "complex" else FLOAT
        meta = _describe(frame, kind)
        data: NDArray[Any]
        if kind == "complex":
            data = pixels
        elif kind == "phase":
            data = np.angle(pixels)
            slope, intercept = 2 * np.pi / PHASE_STEPS, -np.pi
            window = 0.0, 2 * np.pi
            if integers:
                data = np.rint((data - intercept) / slope) % PHASE_STEPS
        else:
            data = np.abs(pixels)
            slope, intercept = 1 / scale, 0.0
            window = FULL_SCALE * slope / 2, FULL_SCALE * slope
            if integers:
                data = np.rint(data * scale)
                scan.counts["saturated pixels"] += int((data > 65535).sum())
                data = np.minimum(data, 65535)
        if kind != "complex":
            data = data.astype(np.uint16 if integers else np.float32)
            meta |= _intensity(window, (slope, intercept) if integers else None)
        both = {theirs: meta[ours] for ours, theirs in GADGETRON.items() if ours in meta}
        return Image(header=header, data=data, meta=meta | both)


def _describe(frame: Frame, kind: str) -> dict[str, str]:
    method = frame.meta.get("method", "image")
    meta = {
        "DataRole": "Image",
        "ImageProcessingHistory": "mnet-gadgets",
        "SeriesDescription": f"mnet_{method}" + ("" if kind == "magnitude" else f"_{kind}"),
        "Keep_image_geometry": "1",
        **directions(frame.header),
    }
    comments = []
    if "incomplete" in frame.meta:
        comments.append(f"INCOMPLETE {frame.meta['incomplete']}")
    if frame.meta.get("fallback") == "true":
        comments.append(f"fallback mask: {frame.meta.get('reason', '')}")
    if frame.meta.get("fov_folded") == "true":
        comments.append("object overflows the field of view along ky")
    if "strongest_ky" in frame.meta:
        comments.append(
            f"strongest line is ky {frame.meta['strongest_ky']}, the header's center another"
        )
    if comments:
        meta["ImageComments"] = "; ".join(comments)
    return meta | {f"mnet_{key}": value for key, value in frame.meta.items()}


def directions(header: np.void) -> dict[str, str]:
    """Return the directions along which columns and rows count, three values each."""
    return {
        name: "\\".join(f"{float(x):.9f}" for x in header[field])
        for name, field in (("ImageRowDir", "read_dir"), ("ImageColumnDir", "phase_dir"))
    }


def _intensity(window: tuple[float, float], rescale: tuple[float, float] | None) -> dict[str, str]:
    """Return window and rescaling; a window (centre, width) is one of rescaled values.

    Gadgetron has no rescaling: its window is one of pixels as they are stored, in whole numbers
    where they are.
    """
    centre, width = window
    meta = {"WindowCenter": f"{centre:.9g}", "WindowWidth": f"{width:.9g}"}
    if rescale is None:
        return meta | {f"GADGETRON_{name}": value for name, value in meta.items()}
    slope, intercept = rescale
    return meta | {
        "RescaleSlope": f"{slope:.9g}",
        "RescaleIntercept": f"{intercept:.9g}",
        "GADGETRON_ScaleRatio": f"{1 / slope:.9g}",
        "GADGETRON_WindowCenter": f"{(centre - intercept) / slope:.0f}",
        "GADGETRON_WindowWidth": f"{width / slope:.0f}",
    }


def to_recon_matrix(image: Complex, geometry: Geometry) -> Complex:
    """Crop the encoded field of view along y, then sinc-interpolate to the matrix of the image."""
    finished: Complex = to_recon_space(
        torch.from_numpy(image), geometry.kept, geometry.recon[:2]
    ).numpy()
    return finished


def _brightest(lines: Complex, n_ky: int) -> float:
    """Return the 99.9th percentile of the calibration's image, coils combined.

    Its L lines are transformed by themselves: the root makes the intensity that of n_ky rows.
    """
    coils = inverse_fourier(torch.from_numpy(lines), 2).numpy()
    rss = np.sqrt((np.abs(coils) ** 2).sum(0)) * np.sqrt(lines.shape[2] / n_ky)
    return max(float(np.percentile(rss, 99.9)), 1e-20)


def image_header(
    line: np.void, geometry: Geometry, shape: tuple[int, ...], series: int, index: int
) -> np.void:
    """Copy geometry, counters and times from the line nearest to the centre of k-space."""
    header: np.void = np.zeros(1, IMAGE_HEADER)[0]
    header["version"] = 1
    for name in (
        "measurement_uid",
        "position",
        "read_dir",
        "phase_dir",
        "slice_dir",
        "patient_table_position",
        "average",
        "slice",
        "contrast",
        "phase",
        "repetition",
        "set",
        "acquisition_time_stamp",
        "physiology_time_stamp",
    ):
        header[name] = line[name]
    header["matrix_size"] = (*shape, 1)
    # what the kept pixels cover, which is not quite reconSpace's where that ends within a pixel
    for axis, n in enumerate(geometry.kept):
        header["field_of_view"][axis] = geometry.encoded_fov[axis] * n / geometry.encoded[axis]
    header["field_of_view"][2] = geometry.recon_fov[2]
    header["channels"] = 1
    header["image_index"] = index
    header["image_series_index"] = series
    return header


def _mask_image(scan: Scan, mask: Mask, index: int) -> Image:
    """Draw a mask as a ushort image of one row over the encoded matrix."""
    geometry = scan.geometry
    row = np.zeros((1, 1, 1, geometry.n_ky), np.uint16)
    row[..., geometry.row(mask.counters)] = 1
    header: np.void = np.zeros(1, IMAGE_HEADER)[0]
    header["version"], header["data_type"], header["image_type"] = 1, USHORT, MAGNITUDE
    header["matrix_size"], header["channels"] = (geometry.n_ky, 1, 1), 1
    header["field_of_view"] = geometry.recon_fov
    header["slice"], header["repetition"] = mask.key.slice, mask.key.repetition
    header["image_index"], header["image_series_index"] = index, SERIES_MASK
    meta = {
        "DataRole": MASK_ROLE,
        "GADGETRON_DataRole": MASK_ROLE,
        "SeriesDescription": "mnet_sampling_mask",
        "mnet_reason": mask.reason,
        "mnet_sent": str(mask.sent).lower(),
        "mnet_model": mask.model,
        "mnet_n_lines": str(mask.counters.size),
        "mnet_mask_ms": f"{1e3 * mask.seconds:.2f}",
    }
    if mask.guard:
        meta["mnet_guard"] = mask.guard
    return Image(header=header, data=row, meta=meta)
