"""What a GPU computes is what the processor computes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mnet.masks.line_plan import LinePlan
from mnet.physics.coil_maps import coil_maps
from mnet.recon.l1_wavelet import l1_wavelet
from mnet.recon.linear import cg_sense
from mnet.recon.modl import MoDL
from mnet.recon.noise_units import noise_units
from mnet.sampler.features import coil_features, features
from mnet.sampler.mnet_select import MNetSelect
from mnet.weight_files import load_weights
from tests.benchmarks.bench_modl import Slice
from tests.gadgets.helpers.closed_loop import coil_images

pytestmark = pytest.mark.gpu


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu() - expected).norm() / expected.norm())


def test_maps_are_the_same_to_a_thousandth(device: str, a_slice: Slice) -> None:
    middle = a_slice.hybrid.shape[-1] // 2
    lines = a_slice.hybrid[..., middle - 12 : middle + 12]
    expected = coil_maps(lines, a_slice.hybrid.shape[-1])
    found = coil_maps(lines.to(device), a_slice.hybrid.shape[-1]).cpu()
    both = (found != 0).any(0) & (expected != 0).any(0)
    # a pixel at the edge of the crop may fall to either side
    assert float(((found != 0).any(0) ^ (expected != 0).any(0)).float().mean()) < 1e-3
    assert difference(found[:, both], expected[:, both]) < 1e-3


@pytest.mark.parametrize("method", [cg_sense, l1_wavelet])
@torch.inference_mode()
def test_a_reconstruction_without_a_network_is_the_same(
    device: str, a_slice: Slice, method: object
) -> None:
    arrays = a_slice.cropped()
    found = method(*(part.to(device) for part in arrays))  # type: ignore[operator]
    assert difference(found, method(*arrays)) < 1e-3  # type: ignore[operator]


@torch.inference_mode()
def test_noise_units_are_the_same(device: str, a_slice: Slice) -> None:
    arrays = a_slice.cropped()
    found = noise_units(*(part.to(device) for part in arrays))
    for one, other in zip(found, noise_units(*arrays), strict=True):
        assert difference(one, other) < 1e-4


@torch.inference_mode()
def test_modl_in_single_precision_is_the_same_to_a_thousandth(device: str, a_slice: Slice) -> None:
    model = load_weights("modl")[0]
    assert isinstance(model, MoDL)
    arrays = a_slice.cropped()
    expected = model.in_float32()(*arrays)
    on_gpu = model.in_float32().to(device)
    found = on_gpu(*(part.to(device) for part in arrays)).cpu()
    assert difference(found, expected) < 1e-3
    on_gpu.to("cpu")


@torch.inference_mode()
def test_bfloat16_costs_less_than_a_hundredth(device: str, a_slice: Slice) -> None:
    model = load_weights("modl")[0].to(device)
    assert isinstance(model, MoDL)
    arrays = [part.to(device) for part in a_slice.cropped()]
    assert difference(model(*arrays), model.in_float32()(*arrays).cpu()) < 1e-2


@torch.inference_mode()
def test_the_sampler_chooses_the_same_mask(device: str) -> None:
    model = load_weights("mnet_select")[0]
    assert isinstance(model, MNetSelect)
    plan = LinePlan.of(np.ones(128, dtype=bool), 4.0)
    kspace = torch.fft.fftshift(torch.fft.fft(coil_images(96, 128, 0.1, 8).to(torch.complex64)))
    lines = kspace[..., torch.from_numpy(plan.calibration)]
    z, coils = features(lines)[None], coil_features(lines[None])
    expected = model.choice(z, plan, coils)
    found = model.to(device).choice(z.to(device), plan, coils.to(device)).cpu()
    assert torch.equal(found, expected)
