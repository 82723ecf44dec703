"""How far a complex image is from the image of all lines of the same scan."""

from torch import Tensor

from mnet.score import image_quality

FIGURES = ("nrmse", "nrmse_plain", "nrmse_magnitude", "ssim", "psnr", "hfen")


def fit(image: Tensor, reference: Tensor) -> Tensor:
    """Return the one complex scale that brings an image (x, y) closest to the reference."""
    energy = image.abs().square().sum().clamp_min(1e-30)
    return (image.conj() * reference).sum() / energy


def nrmse(image: Tensor, reference: Tensor) -> float:
    """Return |a image - reference| / |reference| of complex images, a the best complex number."""
    return distance(image * fit(image, reference), reference)


def distance(image: Tensor, reference: Tensor) -> float:
    """Return |image - reference| / |reference| as they are; complex images (x, y)."""
    return float(image_quality.nrmse(image[None], reference[None])[0])


def figures(image: Tensor, reference: Tensor, rss: Tensor) -> dict[str, float]:
    """Return FIGURES of a complex image: after one complex scale, as it is, and of magnitudes."""
    found = image_quality.score(image[None].abs(), reference[None].abs(), rss[None]).mean()
    return {
        "nrmse": nrmse(image, reference),
        "nrmse_plain": distance(image, reference),
        "nrmse_magnitude": found["nrmse"],
        **{name: found[name] for name in ("ssim", "psnr", "hfen")},
    }
