"""Compressed sensing: the image that fits the lines and has few wavelet coefficients.

    argmin_x 1/2 |M A x - y|^2 + lam s |W x|_1,    s = max |A^H y|

with the SENSE operator A, the line mask M and an orthonormal wavelet transform W of Daubechies'
filters with four taps. The unit s, the brightest pixel of the zero-filled image, makes `lam` a
plain number: the image of data ten times as large is ten times the image. After Lustig et al. 2007,
doi:10.1002/mrm.21391, whose code has that unit and that wavelet too.

`sigpy.mri.app.L1WaveletRecon` solves it by FISTA (Beck and Teboulle 2009, doi:10.1137/080716542).
It is given:

- K-space of both axes, so the readout is transformed back, which is unitary and changes nothing.
- The principal components of each row's coils instead of the coils, as in
  `mnet.recon.cg_inference`: half the time for 15 coils, at a difference of a few thousandths.
- A grid of wavelets that is shifted at random in every step, as in BART. A wavelet transform
  depends on where its grid begins, and leaves blocks there; now all grids count (Coifman and Donoho
  1995, doi:10.1007/978-1-4612-2544-7_9).
"""

import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..physics import sense
from ..physics.coils import mix_rows, row_matrices
from ..physics.fourier import fourier
from .cg_inference import DROPPED_ENERGY

Image = NDArray[np.complexfloating[Any, Any]]
Proximal = Callable[[float, Image], Image]  # of a step length and an image


def l1_wavelet(
    kspace: Tensor,
    csm: Tensor,
    mask: Tensor,
    *,
    lam: float = 0.002,
    n_iterations: int = 100,
    wavelet: str = "db2",
    cycle_spinning: bool = True,
) -> Tensor:
    """Return the image with the least sum of data misfit and wavelet coefficients.

    Computed on the processor, wherever the tensors are, and the same for the same input. The first
    call in a process imports sigpy, which takes seconds.

    Parameters
    ----------
    kspace
        (..., coils, x, ky) complex, hybrid. Lines outside the mask are not looked at.
    csm
        Coil sensitivity maps of the same shape.
    mask
        (..., ky) real, 1 on acquired lines and 0 elsewhere.
    lam
        Weight of the coefficients, in units of the brightest pixel of the zero-filled image. The
        default is what ``bart pics -R W:7:0:0.005`` takes where its unit is the 90th percentile of
        the image of the central lines, which is about 0.4 of ours.
    n_iterations
        Steps of FISTA.
    wavelet
        A discrete wavelet by its name in PyWavelets; "db2" is called dau2 in BART.
    cycle_spinning
        Shift the wavelets' grid in every step. Without, the objective is the formula above for one
        grid, and images are worse.

    Returns
    -------
    Tensor
        (..., x, y) complex, in the precision, unit and place of `kspace`.
    """
    *batch, coils, n_x, n_ky = kspace.shape
    images = [
        _one(*each, lam, n_iterations, wavelet, cycle_spinning)
        for each in zip(
            kspace.cpu().reshape(-1, coils, n_x, n_ky),
            csm.cpu().expand(kspace.shape).reshape(-1, coils, n_x, n_ky),
            mask.cpu().expand(*batch, n_ky).reshape(-1, n_ky),
            strict=True,
        )
    ]
    return torch.stack(images).reshape(*batch, n_x, n_ky).to(kspace.device)


def _one(
    kspace: Tensor,
    csm: Tensor,
    mask: Tensor,
    lam: float,
    n_iterations: int,
    wavelet: str,
    cycle_spinning: bool,
) -> Tensor:
    """Return the image (x, y) of one slice."""
    measured = torch.where(mask > 0, kspace, 0)
    unit = sense.adjoint(measured, csm, mask).abs().max()
    if unit == 0:
        return torch.zeros_like(measured[0])
    matrices = row_matrices(csm, DROPPED_ENERGY)
    csm = mix_rows(matrices, csm)
    app = _l1_wavelet_recon()(
        fourier(mix_rows(matrices, measured / unit), dim=-2).numpy(),
        csm.numpy(),
        lam,
        weights=mask.expand(measured.shape[1:]).numpy(),
        wave_name=wavelet,
        max_iter=n_iterations,
        # a bound on the norm of A^H M A, where sigpy would estimate the norm from random numbers
        alpha=1 / float(csm.abs().square().sum(0).max()),
        show_pbar=False,
    )
    if cycle_spinning:
        app.alg.proxg = _spinning(app.alg.proxg)
    image: Tensor = torch.from_numpy(app.run()) * unit
    return image


@cache
def _l1_wavelet_recon() -> Any:
    """Import sigpy's application when it is first needed.

    numba refuses to load sigpy where it finds no folder to keep compiled functions in, as for a
    service without a home. None of those functions is called here, so a folder that goes again is
    enough.
    """
    import numba  # by which sigpy compiles

    config: Any = numba.config
    with tempfile.TemporaryDirectory() as folder:
        users, config.CACHE_DIR = config.CACHE_DIR, folder
        try:
            from sigpy.mri.app import L1WaveletRecon
        finally:
            config.CACHE_DIR = users
    return L1WaveletRecon


def _spinning(shrink: Proximal) -> Proximal:
    """Shift images (x, y) cyclically by another random distance at every call."""
    rng = np.random.default_rng(0)

    def shrink_shifted(step: float, image: Image) -> Image:
        shift = rng.integers(image.shape)
        shifted = shrink(step, np.roll(image, shift, axis=(0, 1)))
        return np.roll(shifted, -shift, axis=(0, 1))

    return shrink_shifted
