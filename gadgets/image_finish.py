"""Reconstructed frames to MRD images: field of view, scale, header and meta data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mnet.fourier import inverse_fourier
from mnet.fov import finish

from .errors import GadgetError
from .gadget import Gadget, Scan
from .geometry import Geometry
from .items import IMAGE_HEADER, Complex, Frame, Image, Item, Mask, PreScan

SERIES, SERIES_INCOMPLETE, SERIES_MASK = 1, 10, 20
USHORT, FLOAT, CXFLOAT = 1, 5, 7
MAGNITUDE, COMPLEX = 1, 5
FULL_SCALE = 4095.0  # what the calibration's brightest pixels become in ushort images
GADGETRON = {  # Gadgetron's own names of attributes, written beside the usual ones
    "DataRole": "GADGETRON_DataRole",
    "ImageProcessingHistory": "GADGETRON_ImageProcessingHistory",
    "SeriesDescription": "GADGETRON_SeqDescription",
    "ImageComments": "GADGETRON_ImageComment",
    "WindowCenter": "GADGETRON_WindowCenter",
    "WindowWidth": "GADGETRON_WindowWidth",
}


@dataclass(frozen=True, kw_only=True)
class ImageFinish(Gadget):
    """Crop to the reconstructed field of view, interpolate to its matrix, and describe.

    ushort images have one intensity scale for the whole scan, fixed by the first calibration, so
    that they can leave as they are made; float and complex images are not scaled.
    """

    heavy = True

    output: Literal["magnitude", "complex"] = "magnitude"
    dtype: Literal["float", "ushort"] = "float"
    emit_mask_image: bool = True  # the mask as a small image of its own series

    def __post_init__(self) -> None:
        """Refuse complex integers."""
        if self.output == "complex" and self.dtype == "ushort":
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
                series = SERIES_INCOMPLETE if "incomplete" in item.meta else SERIES
                index[series] = index.get(series, 0) + 1
                yield self._image(scan, item, image, scale, series, index[series])
            elif isinstance(item, Mask):
                if self.emit_mask_image:
                    index[SERIES_MASK] = index.get(SERIES_MASK, 0) + 1
                    yield _mask_image(scan, item, index[SERIES_MASK])
            else:
                yield item

    def _image(
        self, scan: Scan, frame: Frame, image: Complex, scale: float, series: int, index: int
    ) -> Image:
        head = image_header(frame.head, scan.geometry, image.shape, series, index)
        meta = {
            "DataRole": "Image",
            "ImageProcessingHistory": "mnet-gadgets",
            "SeriesDescription": f"mnet_{frame.meta.get('method', 'image')}",
            "Keep_image_geometry": "1",
            "ImageRowDir": _vector(frame.head["read_dir"]),
            "ImageColumnDir": _vector(frame.head["phase_dir"]),
        }
        comments = []
        if "incomplete" in frame.meta:
            comments.append(f"INCOMPLETE {frame.meta['incomplete']}")
        if frame.meta.get("fallback") == "true":
            comments.append(f"fallback mask: {frame.meta.get('reason', '')}")
        pixels = image.T[None, None]
        data: NDArray[Any]
        if self.output == "complex":
            head["data_type"], head["image_type"] = CXFLOAT, COMPLEX
            data = pixels
        elif self.dtype == "ushort":
            head["data_type"], head["image_type"] = USHORT, MAGNITUDE
            scaled = np.rint(np.abs(pixels) * scale)
            n_saturated = int((scaled > 65535).sum())
            scan.counts["saturated pixels"] += n_saturated
            data = np.minimum(scaled, 65535).astype(np.uint16)
            meta |= {"RescaleSlope": f"{1 / scale:.9g}", "RescaleIntercept": "0"}
            meta |= {"WindowCenter": f"{FULL_SCALE / 2:.0f}", "WindowWidth": f"{FULL_SCALE:.0f}"}
        else:
            head["data_type"], head["image_type"] = FLOAT, MAGNITUDE
            data = np.abs(pixels).astype(np.float32)
        if comments:
            meta["ImageComments"] = "; ".join(comments)
        meta |= {f"mnet_{key}": value for key, value in frame.meta.items()}
        both = {theirs: meta[ours] for ours, theirs in GADGETRON.items() if ours in meta}
        return Image(head=head, data=np.ascontiguousarray(data), meta=meta | both)


def to_recon_matrix(image: Complex, geometry: Geometry) -> Complex:
    """Crop the encoded field of view along y, then sinc-interpolate to the matrix of the image."""
    finished: Complex = finish(torch.from_numpy(image), kept(geometry), geometry.recon[:2]).numpy()
    return finished


def kept(geometry: Geometry) -> tuple[int, int]:
    """Return the pixels (x, y) that the reconstructed field of view keeps of the encoded one."""
    share = geometry.recon_fov[1] / geometry.encoded_fov[1]
    return geometry.n_x, min(max(round(geometry.n_ky * share), 1), geometry.n_ky)


def _brightest(lines: Complex, n_ky: int) -> float:
    """Return the 99.9th percentile of the calibration's image, coils combined.

    Its L lines are transformed by themselves: the root makes the intensity that of n_ky rows.
    """
    coils = inverse_fourier(torch.from_numpy(lines), 2).numpy()
    rss = np.sqrt((np.abs(coils) ** 2).sum(0)) * np.sqrt(lines.shape[2] / n_ky)
    return max(float(np.percentile(rss, 99.9)), 1e-20)


def _vector(v: NDArray[np.float32]) -> str:
    return " ".join(f"{float(x):.6f}" for x in v)


def image_header(
    line: np.void, geometry: Geometry, shape: tuple[int, ...], series: int, index: int
) -> np.void:
    """Copy geometry, counters and times from the line nearest to the centre of k-space."""
    head: np.void = np.zeros(1, IMAGE_HEADER)[0]
    head["version"] = 1
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
        head[name] = line[name]
    head["matrix_size"] = (*shape, 1)
    head["field_of_view"] = geometry.recon_fov
    head["channels"] = 1
    head["image_index"] = index
    head["image_series_index"] = series
    return head


def _mask_image(scan: Scan, mask: Mask, index: int) -> Image:
    """Draw a mask as a ushort image of one row over the encoded matrix."""
    geometry = scan.geometry
    row = np.zeros((1, 1, 1, geometry.n_ky), np.uint16)
    row[..., geometry.row(mask.counters)] = 1
    head: np.void = np.zeros(1, IMAGE_HEADER)[0]
    head["version"], head["data_type"], head["image_type"] = 1, USHORT, MAGNITUDE
    head["matrix_size"], head["channels"] = (geometry.n_ky, 1, 1), 1
    head["field_of_view"] = geometry.recon_fov
    head["slice"], head["repetition"] = mask.key.slice, mask.key.repetition
    head["image_index"], head["image_series_index"] = index, SERIES_MASK
    meta = {
        "DataRole": "SamplingMask",
        "GADGETRON_DataRole": "SamplingMask",
        "SeriesDescription": "mnet_sampling_mask",
        "mnet_reason": mask.reason,
        "mnet_sent": str(mask.sent).lower(),
        "mnet_model": mask.model,
        "mnet_n_lines": str(mask.counters.size),
        "mnet_mask_ms": f"{1e3 * mask.seconds:.2f}",
    }
    return Image(head=head, data=row, meta=meta)
