"""What an image says of itself, from the line that arrives to the image that leaves a host."""

from dataclasses import replace

import numpy as np
import torch

from gadgets.files.source import Source
from gadgets.host.child_host import Address
from gadgets.scanner.adaptive_scan import Options, adaptive_scan
from gadgets.scanner.sequence import play
from gadgets.steps.image_finish import SERIES
from mnet.physics.fourier import fourier
from tests.gadgets.helpers.closed_loop import N_KY, N_X, coil_images, sequence, source
from training.data.simulate import folded


def overflowing(scan: Source, slice_: int) -> Source:
    """Exchange the object of a slice for one that is 1.5 times as wide as the field of view."""
    image = folded(coil_images(N_X, 3 * N_KY // 2, 0.0), N_KY)
    padded = torch.nn.functional.pad(image, (0, 0, N_X // 2, N_X // 2))
    kspace = fourier(fourier(padded, -2), -1).numpy().astype(np.complex64)
    lines = [
        replace(line, data=np.ascontiguousarray(kspace[:, :, line.header["kspace_encode_step_1"]]))
        if line.header["slice"] == slice_
        else line
        for line in scan.acquisitions
    ]
    return replace(scan, acquisitions=lines)


def test_a_host_s_images_say_whether_the_object_overflows_and_what_modl_was_told(
    address: Address,
) -> None:
    scan = overflowing(source(2), 1)
    _, images = play(scan, sequence(acceleration=2.0), address, "adaptive_modl.xml")
    fits, overflows = (i for i in images if int(i.header["image_series_index"]) == SERIES)
    assert fits.meta["mnet_fov_folded"] == "false"
    assert overflows.meta["mnet_fov_folded"] == "true"
    assert "overflows" in overflows.meta["ImageComments"]
    assert "overflows" not in fits.meta.get("ImageComments", "")
    # Noise of 0.0028 before an object of about 1, and of an object without smooth edges the corners
    # of k-space hold several hundredths more: the ratio is an upper bound.
    assert 0.0028 < float(fits.meta["mnet_noise_ratio"]) < 0.1
    assert 0.005 <= float(fits.meta["mnet_lam"]) <= 100  # LAM_RANGE of MoDL


def test_the_json_of_a_scan_names_the_slices_that_overflow(address: Address) -> None:
    result = adaptive_scan(overflowing(source(2), 0), address, Options(acceleration=2.0))
    assert [entry["fov_folded"] for entry in result.json["slices"]] == [True, False]
