"""Coil sensitivity maps as every part of the project estimates them."""

from torch import Tensor

from .espirit import calibration_from_lines, espirit_and_second

N_CALIBRATION_X = 24
# well below ESPIRiT's usual 0.8 to 0.95: a hole in the anatomy is worse than noise in air
EIGENVALUE_CROP = 0.7


def coil_maps(calibration: Tensor, n_ky: int) -> Tensor:
    """Estimate maps (..., coils, x, n_ky) from hybrid calibration lines (..., coils, x, L).

    The lines are consecutive and ascending in ky. Kernels are shift invariant in k-space, so they
    need not be centred on k = 0.
    """
    return maps_and_second(calibration, n_ky)[0]


def maps_and_second(calibration: Tensor, n_ky: int) -> tuple[Tensor, Tensor]:
    """Estimate the same maps, and the second eigenvalue (..., x, n_ky) as `espirit_and_second`."""
    block = calibration_from_lines(calibration, N_CALIBRATION_X)
    return espirit_and_second(block, (calibration.shape[-2], n_ky), crop=EIGENVALUE_CROP)
