import copy

import pytest
import torch
from torch import Tensor

from mnet.physics import sense
from mnet.physics.coils import compress_rows, mix_rows, row_matrices
from mnet.recon import cg
from mnet.recon.cg_inference import DataConsistency
from mnet.recon.modl import MoDL, has_bfloat16
from tests.mnet.helpers.operator_checks import random_like

SIZES = [(1, 1, 8, 16), (2, 4, 9, 30), (1, 8, 16, 37), (1, 15, 12, 46)]  # batch, coils, x, ky


def smooth_maps(size: tuple[int, ...], seed: int = 0) -> Tensor:
    """Draw maps like those of receive coils, with unit norm: polynomials, and some air."""
    *_, n_x, n_y = size
    x, y = torch.linspace(-1, 1, n_x)[:, None], torch.linspace(-1, 1, n_y)
    basis = torch.stack([x**i * y**j for i in range(4) for j in range(4)]).to(torch.complex64)
    weights = random_like(torch.zeros(*size[:2], 16, dtype=torch.complex64), seed)
    csm = torch.tensordot(weights, basis, 1)
    csm = csm / csm.abs().square().sum(1, keepdim=True).sqrt()
    return torch.where(x**2 + y**2 < 1.5, csm, 0)


def problem(size: tuple[int, ...], acceleration: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, n_x, n_ky = size
    generator = torch.Generator().manual_seed(acceleration)
    mask = (torch.rand(batch, n_ky, generator=generator) < 1 / acceleration).float()
    mask[:, n_ky // 2 - 2 : n_ky // 2 + 2] = 1
    csm = smooth_maps(size)
    image = random_like(torch.zeros(batch, n_x, n_ky, dtype=torch.complex64), 1)
    kspace = sense.forward(image, csm, torch.ones_like(mask))
    return kspace + 0.1 * random_like(kspace, 2), csm, mask


def network(n_cg: int) -> MoDL:
    model = MoDL(4, 2, 3, n_cg).eval()
    generator = torch.Generator().manual_seed(0)
    for value in model.denoiser.parameters():
        value.data = 0.1 * torch.randn(value.shape, generator=generator)
    return model


def converged(model: MoDL, kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Run the plain network in double precision, every solve to the end."""
    kspace, csm, mask = kspace.to(torch.complex128), csm.to(torch.complex128), mask.double()
    double = copy.deepcopy(model).double()
    double.n_cg = 200
    with torch.no_grad():
        image = double(kspace, csm, mask)
    return image.to(torch.complex64)


def distance(image: Tensor, expected: Tensor) -> float:
    return float((image - expected).norm() / expected.norm())


def test_every_unroll_has_its_own_lambda_and_tells_the_denoiser_which_it_is():
    inputs = problem(SIZES[0], 4)
    model = network(n_cg=60).in_float32()
    with torch.no_grad():
        model.log_lam.bias.copy_(torch.tensor([-4.0, -3.0, -1.0, 1.0]))
    said = []
    handle = model.denoiser.register_forward_hook(
        lambda _, given, __: said.append(given[1].clone())
    )
    with torch.inference_mode():
        fast, told = model.of_scans(*inputs)
    handle.remove()
    assert distance(fast, converged(model, *inputs)) < 1e-4
    times = 2 if model.symmetric else 1
    for unroll, conditions in enumerate(said):
        expected = torch.cat([told, torch.eye(3)[None, unroll]], 1)
        torch.testing.assert_close(conditions, expected.repeat(times, 1))
    assert len(said) == 3


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "bf16": False}, True),
        ({"bf16": True}, True),
        ({"avx2": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_bfloat16_is_used_where_the_hardware_has_it(found, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: not expected)
    assert has_bfloat16(torch.device("cpu")) is expected
    assert has_bfloat16(torch.device("cuda")) is not expected
    assert not has_bfloat16(torch.device("meta"))
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # before torch 2.10
    assert not has_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize("acceleration", [1, 2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_inference_equals_the_plain_network_once_both_have_converged(size, acceleration):
    inputs = problem(size, acceleration)
    model = network(n_cg=60)
    model.use_bfloat16 = False
    with torch.inference_mode():
        fast = model(*inputs)
        plain = converged(model, *inputs)
    assert distance(fast, plain) < 1e-4
    assert distance(sense.adjoint(*inputs), plain) > 1e-2 or acceleration == 1


@pytest.mark.parametrize("size", SIZES)
def test_few_iterations_get_no_farther_from_the_solution_than_those_of_the_plain_network(size):
    inputs = problem(size, 4)
    model = network(n_cg=5)
    model.use_bfloat16 = False
    with torch.inference_mode():
        fast = model(*inputs)
    with torch.no_grad():
        plain = model(*inputs)
    model.n_cg = 80
    with torch.inference_mode():
        solution = model(*inputs)
    assert distance(fast, solution) <= distance(plain, solution) + 1e-5


def test_every_prior_gets_its_own_solution():
    kspace, csm, mask = (
        v.to(torch.promote_types(v.dtype, torch.float64)) for v in problem(SIZES[1], 4)
    )
    lam = torch.tensor(0.1, dtype=torch.float64)
    consistency = DataConsistency(kspace, csm, mask, n_iterations=60, dropped=0)
    for seed in range(3):
        prior, weight = random_like(consistency.zero_filled, seed), lam * (1 + seed)
        expected = cg.data_consistency(
            prior, weight, mask, kspace, csm, n_iterations=200, tolerance=1e-13
        )
        torch.testing.assert_close(consistency(prior, weight), expected, rtol=1e-8, atol=1e-8)


def test_rows_without_any_coil_keep_the_prior():
    kspace, csm, mask = problem(SIZES[2], 2)
    csm[:, :, :3] = 0
    prior = random_like(csm[:, 0], 4)
    image = DataConsistency(kspace, csm, mask, n_iterations=5)(prior, torch.tensor(0.1))
    torch.testing.assert_close(image[:, :3], prior[:, :3])
    assert not torch.equal(image[:, 3:], prior[:, 3:])


def test_compressed_rows_keep_the_normal_operator():
    _, csm, mask = problem((2, 12, 10, 40), 4)
    image = random_like(csm[:, 0], 5)
    few = compress_rows(csm, 1e-6)
    assert few.shape[1] < csm.shape[1]
    expected = sense.Normal(csm, mask)(image)
    assert distance(sense.Normal(few, mask)(image), expected) < 1e-5


def test_lines_and_maps_mixed_alike_give_the_same_zero_filled_image():
    kspace, csm, mask = problem((2, 12, 10, 40), 4)
    matrices = row_matrices(csm, 1e-6)
    few = sense.adjoint(mix_rows(matrices, kspace), mix_rows(matrices, csm), mask)
    assert matrices.shape[-2] < csm.shape[1]
    assert distance(few, sense.adjoint(kspace, csm, mask)) < 1e-2  # noise is in all coils


def test_coils_that_have_nothing_in_common_are_all_kept():
    csm = random_like(torch.zeros(1, 5, 6, 20, dtype=torch.complex128), 0)
    assert compress_rows(csm, 1e-4).shape == csm.shape


def test_maps_without_any_signal_keep_one_coil():
    assert compress_rows(torch.zeros(1, 5, 6, 20, dtype=torch.complex64), 1e-4).shape[1] == 1


def test_a_bfloat16_denoiser_stays_near_the_float32_one():
    inputs = problem((1, 8, 32, 48), 4)
    model = network(n_cg=8)
    with torch.inference_mode():
        half = model(*inputs)
        model.use_bfloat16 = False
        single = model(*inputs)
    assert half.dtype == single.dtype
    assert distance(half, single) < 1e-2


def test_what_is_labelled_takes_the_plain_network():
    inputs = problem(SIZES[1], 4)
    model = network(n_cg=5)
    with_gradients = model(*inputs)
    assert with_gradients.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), with_gradients)
    with torch.inference_mode():
        assert not torch.equal(model(*inputs), with_gradients)
