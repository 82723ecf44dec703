"""Image quality: one way to score a scan, and the conventions of two communities.

Magnitude volumes are (slices, x, y). `score` is what reports use. The fastMRI set takes the range
of PSNR and SSIM from the volume's maximum, the paper's set divides every image by its own maximum.
SSIM: Wang et al. 2004, doi:10.1109/TIP.2003.819861, uniform 7x7 window as in fastMRI. HFEN:
Ravishankar and Bresler 2011, doi:10.1109/TMI.2010.2090538.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Per-slice figures, one tensor (slices,) each."""

    nrmse: Tensor
    nrmse_rss: Tensor
    psnr: Tensor  # dB
    ssim: Tensor
    hfen: Tensor

    def mean(self) -> dict[str, float]:
        """Return the mean of every figure over slices."""
        return {name: float(getattr(self, name).mean()) for name in Scores.__slots__}


def nrmse(image: Tensor, reference: Tensor) -> Tensor:
    """Return |image - reference| / |reference| per slice; real or complex (slices, x, y)."""
    return _norm(image - reference) / _norm(reference).clamp_min(1e-20)


def psnr(image: Tensor, reference: Tensor, peak: Tensor) -> Tensor:
    """Return 10 log10(peak^2 / mse) per slice in dB; peak is a scalar or (slices,)."""
    mse = (image - reference).square().mean((-2, -1)).clamp_min(1e-20)
    return 10 * torch.log10(peak**2 / mse)


def ssim(image: Tensor, reference: Tensor, peak: Tensor, window: int = 7) -> Tensor:
    """Return the structural similarity per slice; peak is a scalar or (slices,)."""
    n = window**2
    unbiased = n / (n - 1)
    c1, c2 = ((factor * peak.reshape(-1, 1, 1)) ** 2 for factor in (0.01, 0.03))

    def average(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x.unsqueeze(1), window, stride=1)[:, 0]

    # double precision: the variances are differences of nearly equal numbers
    a, b = image.double(), reference.double()
    mean_a, mean_b = average(a), average(b)
    var_a = unbiased * (average(a * a) - mean_a * mean_a)
    var_b = unbiased * (average(b * b) - mean_b * mean_b)
    cov = unbiased * (average(a * b) - mean_a * mean_b)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean((-2, -1)).to(image.dtype)


def hfen(image: Tensor, reference: Tensor) -> Tensor:
    """Return the high-frequency error norm per slice: NRMSE of edges; real (slices, x, y).

    Edges are what a Laplacian of Gaussian leaves, 15x15 pixels, sigma 1.5; images are mirrored at
    their borders and need at least 8 pixels either way. A low-pass mask hides nothing here.
    """
    kernel = _laplacian_of_gaussian(15, 1.5).to(reference)

    def edges(x: Tensor) -> Tensor:
        padded = functional.pad(x.unsqueeze(1), (7, 7, 7, 7), mode="reflect")
        return functional.conv2d(padded, kernel[None, None])[:, 0]

    return nrmse(edges(image), edges(reference))


def _laplacian_of_gaussian(size: int, sigma: float) -> Tensor:
    x = torch.arange(size, dtype=torch.float64) - size // 2
    square = x[:, None] ** 2 + x**2
    gauss = torch.exp(-square / (2 * sigma**2))
    kernel = gauss / gauss.sum() * (square - 2 * sigma**2) / sigma**4
    return kernel - kernel.mean()  # a constant has no edges


def fit_scale(image: Tensor, reference: Tensor) -> Tensor:
    """Return the real scale of a whole volume that brings `image` closest to `reference`."""
    return (image * reference).sum() / image.square().sum().clamp_min(1e-20)


def score(image: Tensor, reference: Tensor, rss: Tensor) -> Scores:
    """Score a scan: magnitude volumes, one least-squares scale for all slices.

    `reference` is the fully sampled volume combined with the maps of the calibration lines, `rss`
    its root-sum-of-squares combination; PSNR and SSIM take their range from the reference volume.
    """
    scaled = image * fit_scale(image, reference)
    peak = reference.max()
    return Scores(
        nrmse=nrmse(scaled, reference),
        nrmse_rss=nrmse(image * fit_scale(image, rss), rss),
        psnr=psnr(scaled, reference, peak),
        ssim=ssim(scaled, reference, peak),
        hfen=hfen(scaled, reference),
    )


def fastmri_compatible(image: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Score a volume without rescaling it: ranges are those of the volume, per-slice figures."""
    peak = reference.max()
    return {
        "nmse": nrmse(image, reference) ** 2,
        "psnr": psnr(image, reference, peak),
        "ssim": ssim(image, reference, peak),
    }


def paper_compatible(image: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Score slices divided by their own maxima, as the paper's table does; range 1."""
    image, reference = (
        volume / volume.amax((-2, -1), keepdim=True).clamp_min(1e-20)
        for volume in (image, reference)
    )
    one = torch.ones((), dtype=image.dtype, device=image.device)
    return {
        "nrmse": nrmse(image, reference),
        "psnr": psnr(image, reference, one),
        "ssim": ssim(image, reference, one),
    }


def _norm(x: Tensor) -> Tensor:
    return x.abs().square().sum((-2, -1)).sqrt()
