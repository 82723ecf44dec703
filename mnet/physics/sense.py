"""The SENSE operator in hybrid (x, ky) space.

The readout is fully sampled and already transformed, so encoding is one 1-D problem per x:

    A m = M F_y (S_c m),   c = 1 .. coils

with coil sensitivity maps S, the orthonormal centred Fourier transform F along y and a line mask M.
Shapes: image (..., x, y), csm (..., coils, x, y), kspace (..., coils, x, ky), mask (..., ky).
Pruessmann et al. 1999, doi:10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S.
"""

import torch
from torch import Tensor

from .fourier import fourier, inverse_fourier


def broadcast_mask(mask: Tensor) -> Tensor:
    """Broadcast a line mask (..., ky) over coils and readout: (..., 1, 1, ky)."""
    return mask[..., None, None, :]


def forward(image: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Return the k-space (..., coils, x, ky) of an image on the lines of `mask`."""
    return broadcast_mask(mask) * fourier(csm * image.unsqueeze(-3), dim=-1)


def adjoint(kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Return the adjoint, the coil-combined zero-filled image (..., x, y)."""
    return combine(inverse_fourier(broadcast_mask(mask) * kspace, dim=-1), csm)


def combine(coil_images: Tensor, csm: Tensor) -> Tensor:
    """Combine coil images (..., coils, x, y) with their maps, sum over coils of conj(S_c) m_c."""
    return (csm.conj() * coil_images).sum(-3)


class Normal:
    """A^H A for one set of maps and one mask, `normal(image) -> image`.

    Shifts along y commute with everything pointwise, so they are applied once to the maps and the
    mask and the two transforms inside run without any.
    """

    def __init__(self, csm: Tensor, mask: Tensor) -> None:
        self.csm = torch.fft.ifftshift(csm, dim=-1)
        self.conjugate = self.csm.conj().resolve_conj()
        self.mask = broadcast_mask(torch.fft.ifftshift(mask, dim=-1))

    def __call__(self, image: Tensor) -> Tensor:
        """Return A^H A image, shape (..., x, y)."""
        coils = self.csm * torch.fft.ifftshift(image, dim=-1).unsqueeze(-3)
        # in place: to allocate memory takes as long as to multiply
        coils = torch.fft.ifft(torch.fft.fft(coils).mul_(self.mask)).mul_(self.conjugate)
        result: Tensor = torch.fft.fftshift(coils.sum(-3), dim=-1)
        return result
