"""The one Fourier pair of the project: centred and orthonormal.

    X[k] = N^(-1/2) * sum_n x[n] exp(-2 pi i (k - N//2) (n - N//2) / N)

DC and the image centre sit at ``N // 2`` for even and odd sizes alike.
"""

from torch import Tensor, fft


def fourier(x: Tensor, dim: int) -> Tensor:
    """Transform from image space to k-space along one axis."""
    x = fft.ifftshift(x, dim=dim)
    spectrum: Tensor = fft.fftshift(fft.fft(x, dim=dim, norm="ortho"), dim=dim)
    return spectrum


def inverse_fourier(x: Tensor, dim: int) -> Tensor:
    """Transform from k-space to image space along one axis."""
    x = fft.ifftshift(x, dim=dim)
    image: Tensor = fft.fftshift(fft.ifft(x, dim=dim, norm="ortho"), dim=dim)
    return image
