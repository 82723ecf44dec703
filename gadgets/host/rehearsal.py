"""A slice made up to prove that masks can be predicted and frames reconstructed here."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from mnet.weight_files import WeightsError

from ..mrd.geometry import Geometry
from ..mrd.header_layouts import ACQUISITION_HEADER
from ..mrd.header_xml import header_xml
from ..mrd.items import Acquisition, Mask
from ..pipeline.chain import chain
from ..pipeline.gadget import Gadget
from ..pipeline.intake import intake
from ..pipeline.models import Models
from ..pipeline.scan import Scan
from ..steps.predict_mask import PredictMask

N, N_COILS = 64, 2


def header() -> bytes:
    """Return the MRD header of the scan that is made up."""
    matrix, fov = (N, N, 1), (256.0, 256.0, 5.0)
    return header_xml(encoded=matrix, encoded_fov=fov, recon=matrix, recon_fov=fov, n_coils=N_COILS)


def rehearse(front: Iterable[Gadget], models: Models) -> str:
    """Warm the front of a pipeline and send it one slice; nothing leaves.

    Returns why no mask was predicted, "" if one was.
    """
    scan = Scan(geometry=Geometry.parse(header()), models=models)
    gadgets = [replace(g, mode="shadow") if isinstance(g, PredictMask) else g for g in front]
    try:
        for gadget in gadgets:
            gadget.warm(scan)
        items = list(chain(gadgets, scan, intake(scan, _lines())))
    except WeightsError as error:
        return str(error)
    reasons = [item.reason for item in items if isinstance(item, Mask)]
    if reasons == ["predicted"]:
        return ""
    return reasons[0] if reasons else "the calibration lines of a slice gave no mask"


def _lines() -> Iterator[Acquisition]:
    rng = np.random.default_rng(0)
    for ky in range(N):
        header = np.zeros(1, ACQUISITION_HEADER)[0]
        header["version"], header["active_channels"], header["number_of_samples"] = 1, N_COILS, N
        header["center_sample"], header["kspace_encode_step_1"] = N // 2, ky
        noise = rng.normal(size=(2, N_COILS, N))
        yield Acquisition(header=header, data=(noise[0] + 1j * noise[1]).astype(np.complex64))
