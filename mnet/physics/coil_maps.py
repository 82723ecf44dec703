"""Coil sensitivity maps as every part of the project estimates them."""

from torch import Tensor

from .coils import compress, mix
from .espirit import calibration_from_lines, espirit_and_second

N_CALIBRATION_X = 24
# well below ESPIRiT's usual 0.8 to 0.95: a hole in the anatomy is worse than noise in air
EIGENVALUE_CROP = 0.7
# the cost of ESPIRiT grows as the square of the coils and faster; 16 principal components of 24 or
# 32 loops around an object change its image by 0.1 to 0.3 %
MOST_COILS = 16


def coil_maps(calibration: Tensor, n_ky: int) -> Tensor:
    """Estimate maps (..., coils, x, n_ky) from hybrid calibration lines (..., coils, x, L).

    The lines are consecutive and ascending in ky. Kernels are shift invariant in k-space, so they
    need not be centred on k = 0.
    """
    return maps_and_second(calibration, n_ky)[0]


def maps_and_second(calibration: Tensor, n_ky: int) -> tuple[Tensor, Tensor]:
    """Estimate the same maps, and the second eigenvalue (..., x, n_ky) as `espirit_and_second`.

    Of more than MOST_COILS coils the maps are those of as many principal components, turned back
    to the coils: the image is that of the compressed coils, as components beyond them are left out.
    """
    block = calibration_from_lines(calibration, N_CALIBRATION_X)
    shape = (calibration.shape[-2], n_ky)
    if block.shape[-3] <= MOST_COILS:
        return espirit_and_second(block, shape, crop=EIGENVALUE_CROP)
    matrix = compress(block, MOST_COILS)
    few, second = espirit_and_second(mix(matrix, block), shape, crop=EIGENVALUE_CROP)
    return mix(matrix.mH, few), second
