import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mnet.score import image_quality


def volumes(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reference = (
        torch.rand(3, 40, 33, generator=generator) * torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    )
    image = reference + 0.1 * torch.randn(3, 40, 33, generator=generator)
    return image, reference


def test_ssim_matches_scikit_image():
    image, reference = volumes()
    peak = reference.max()
    expected = [
        structural_similarity(a.numpy(), b.numpy(), data_range=float(peak))
        for a, b in zip(reference.double(), image.double(), strict=True)
    ]
    # scikit-image averages over all pixels but those within half a window of the edge, as we do
    np.testing.assert_allclose(image_quality.ssim(image, reference, peak), expected, rtol=1e-5)


def test_ssim_with_a_range_for_every_slice_matches_scikit_image():
    image, reference = volumes(1)
    peak = reference.amax((-2, -1))
    expected = [
        structural_similarity(a.numpy(), b.numpy(), data_range=float(p))
        for a, b, p in zip(reference.double(), image.double(), peak, strict=True)
    ]
    np.testing.assert_allclose(image_quality.ssim(image, reference, peak), expected, rtol=1e-5)


def test_psnr_matches_scikit_image():
    image, reference = volumes()
    peak = reference.max()
    expected = [
        peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=float(peak))
        for a, b in zip(image, reference, strict=True)
    ]
    np.testing.assert_allclose(image_quality.psnr(image, reference, peak), expected, rtol=1e-5)


def test_nrmse_of_complex_images_counts_phase_errors():
    reference = torch.ones(1, 8, 8, dtype=torch.complex64)
    assert image_quality.nrmse(1j * reference, reference).item() == pytest.approx(2**0.5)
    assert image_quality.nrmse(reference * 1.1, reference).item() == pytest.approx(0.1, rel=1e-5)


def test_fit_scale_is_the_least_squares_scale():
    image, reference = volumes()
    expected = np.linalg.lstsq(
        image.reshape(-1, 1).numpy(), reference.reshape(-1).numpy(), rcond=None
    )
    assert image_quality.fit_scale(image, reference).item() == pytest.approx(
        float(expected[0][0]), rel=1e-5
    )


def test_score_does_not_depend_on_the_scale_of_the_image():
    image, reference = volumes()
    first = image_quality.score(image, reference, reference * 1.2)
    second = image_quality.score(image * 250, reference, reference * 1.2)
    for name in ("nrmse", "nrmse_rss", "psnr", "ssim"):
        torch.testing.assert_close(
            getattr(first, name), getattr(second, name), rtol=1e-4, atol=1e-5
        )


def test_score_uses_one_scale_for_all_slices():
    _, reference = volumes()
    wrong = reference * torch.tensor([1.0, 1.2, 1.0])[:, None, None]  # one slice too bright
    scores = image_quality.score(wrong, reference, reference)
    assert scores.nrmse.min() > 0.01


def test_score_of_the_reference_itself_is_perfect():
    _, reference = volumes()
    mean = image_quality.score(reference, reference, reference).mean()
    assert mean["nrmse"] < 1e-6
    assert mean["ssim"] == pytest.approx(1.0)


def test_the_fastmri_set_takes_its_range_from_the_volume():
    image, reference = volumes()
    found = image_quality.fastmri_compatible(image, reference)
    mse = (image - reference).square().mean((-2, -1))
    torch.testing.assert_close(found["psnr"], 10 * torch.log10(reference.max() ** 2 / mse))
    torch.testing.assert_close(found["nmse"], image_quality.nrmse(image, reference) ** 2)


def test_the_paper_s_set_divides_every_image_by_its_own_maximum():
    image, reference = volumes()
    found = image_quality.paper_compatible(image * 7, reference * 3)
    expected = image_quality.paper_compatible(image, reference)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def explicit_log_kernel() -> np.ndarray:
    kernel = np.zeros((15, 15))
    for i in range(15):
        for j in range(15):
            r2 = (i - 7) ** 2 + (j - 7) ** 2
            kernel[i, j] = (r2 - 2 * 1.5**2) * np.exp(-r2 / (2 * 1.5**2))
    # the sum of the Gaussian only scales the kernel, which a ratio does not see
    return kernel - kernel.mean()


def test_hfen_is_the_norm_ratio_after_an_explicit_laplacian_of_gaussian():
    image, reference = volumes(2)
    found = image_quality.hfen(image, reference)
    for a, b, value in zip(image.double().numpy(), reference.double().numpy(), found, strict=True):
        edges = [ndimage.convolve(x, explicit_log_kernel(), mode="mirror") for x in (a, b)]
        expected = np.linalg.norm(edges[0] - edges[1]) / np.linalg.norm(edges[1])
        assert value.item() == pytest.approx(expected, rel=1e-4)


def test_hfen_agrees_with_scipy_s_separable_filter():
    image, reference = volumes(3)
    found = image_quality.hfen(image, reference)
    for a, b, value in zip(image.double().numpy(), reference.double().numpy(), found, strict=True):
        edges = [ndimage.gaussian_laplace(x, 1.5, mode="mirror", radius=7) for x in (a, b)]
        expected = np.linalg.norm(edges[0] - edges[1]) / np.linalg.norm(edges[1])
        # derivatives of a sampled Gaussian, where ours is the sampled derivative
        assert value.item() == pytest.approx(expected, rel=0.02)


def test_hfen_sees_lost_edges_and_not_lost_brightness():
    _, reference = volumes(4)
    blurred = torch.from_numpy(ndimage.gaussian_filter(reference.numpy(), (0, 2, 2)))
    assert (image_quality.hfen(blurred, reference) > 0.8).all()
    assert image_quality.hfen(reference + 0.5, reference).max() < 1e-4
    assert image_quality.nrmse(reference + 0.5, reference).min() > 0.1


def test_score_reports_hfen_at_the_fitted_scale():
    image, reference = volumes(5)
    scaled = image * image_quality.fit_scale(image, reference)
    found = image_quality.score(3 * image, reference, reference).hfen
    torch.testing.assert_close(found, image_quality.hfen(scaled, reference), rtol=1e-4, atol=1e-6)


def test_an_empty_reference_gives_finite_numbers():
    zero = torch.zeros(1, 16, 16)
    assert torch.isfinite(image_quality.nrmse(zero, zero)).all()
