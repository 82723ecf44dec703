import numpy as np
import pytest
import torch

from training.data.denoise import denoised, faded, noise_level


def body(n=96):
    """Flat tissue of two kinds with an edge and a thin line, and air around."""
    image = torch.zeros(n, n)
    image[12:-12, 12:-12] = 0.6
    image[12:-12, n // 2 : -12] = 1.0
    image[n // 2, 12:-12] += 0.3
    return image


def noisy(sigma, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return body() + sigma * torch.randn(96, 96, generator=generator) * (body() > 0)


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.06])
def test_the_noise_of_tissue_is_found(sigma):
    assert noise_level(noisy(sigma)) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.06])
def test_most_noise_goes_and_edges_and_lines_stay(sigma):
    clean = denoised(noisy(sigma))
    inside = body() > 0
    before, after = (((i - body())[inside].square().mean().sqrt()) for i in (noisy(sigma), clean))
    assert float(after) < 0.6 * float(before)
    line = clean[48, 20:40].mean() - clean[40, 20:40].mean()
    assert float(line) == pytest.approx(0.3, abs=sigma / 2)
    edge = clean[30:40, 48].mean() - clean[30:40, 47].mean()
    assert float(edge) == pytest.approx(0.4, abs=sigma / 2)


def test_an_image_without_noise_stays_as_it_is():
    assert torch.equal(denoised(body()), body())
    assert torch.equal(denoised(torch.zeros(20, 30)), torch.zeros(20, 30))


def test_a_side_that_was_cut_fades_and_the_others_do_not():
    image = torch.zeros(80, 60)
    image[0:50, 20:40] = 1
    soft = faded(image, np.random.default_rng(0))
    profile = soft[:, 30]
    assert profile[0] < 0.01
    assert (profile[1:17] >= profile[:16]).all()
    assert torch.equal(soft[17:], image[17:])  # no side fades over more than a fifth


def test_a_body_that_ends_within_the_image_is_left_alone():
    assert torch.equal(faded(body(), np.random.default_rng(0)), body())
