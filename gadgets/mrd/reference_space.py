"""Reference lines of an encoding space of their own, brought into that of the image.

Their matrix is smaller, their field of view the image's along ky and no smaller along x: then every
one of them is a line of the image's k-space, with fewer samples.
"""

from dataclasses import replace

import torch

from mnet.physics.coil_maps import N_CALIBRATION_X
from mnet.physics.fourier import fourier, inverse_fourier

from .echo import centred
from .geometry import Geometry
from .items import Acquisition

_EQUAL = 1e-3  # fields of view that differ by less are the same: hosts write them rounded


def in_imaging_space(line: Acquisition, geometry: Geometry) -> Acquisition | None:
    """Return a reference line as one of the imaging space, hybrid; None where it cannot be one.

    It has as many samples along x as the image, those that were not measured are zero; maps are
    estimated from the central ones, which must have been.
    """
    space = geometry.references.get(int(line.header["encoding_space_ref"]))
    if space is None or line.hybrid:
        return None
    (x, _), (fov_x, fov_y) = space.encoded, space.encoded_fov
    width = round(x * geometry.recon_fov[0] / fov_x)
    if (
        abs(fov_y / geometry.encoded_fov[1] - 1) > _EQUAL
        or fov_x < geometry.recon_fov[0] * (1 - _EQUAL)
        or not N_CALIBRATION_X <= width <= geometry.n_x
    ):
        return None
    own = replace(geometry, encoded=(x, *geometry.encoded[1:]), encoded_fov=(fov_x, fov_y, 1.0))
    kx = torch.from_numpy(centred(line, own).copy())
    pixels = inverse_fourier(kx, dim=-1)[..., x // 2 - width // 2 :][..., :width]
    padded = torch.zeros(*kx.shape[:-1], geometry.n_x, dtype=kx.dtype)
    start = geometry.n_x // 2 - width // 2
    padded[..., start : start + width] = fourier(pixels, dim=-1)
    header = line.header.copy()
    counter = int(header["kspace_encode_step_1"]) - space.center + geometry.center
    if not geometry.ky_min <= counter <= geometry.ky_max:
        return None
    header["encoding_space_ref"], header["kspace_encode_step_1"] = 0, counter
    return replace(line, header=header, data=inverse_fourier(padded, dim=-1).numpy(), hybrid=True)
