import pytest
import torch

from mnet.physics import sense
from mnet.recon import cg
from mnet.recon.linear import cg_sense
from tests.mnet.helpers.operator_checks import random_like

LAM = torch.tensor(0.3, dtype=torch.float64)


def problem(n_x: int, n_ky: int, batch: int = 1) -> dict[str, torch.Tensor]:
    csm = random_like(torch.zeros(batch, 3, n_x, n_ky, dtype=torch.complex128), 0)
    csm = csm / csm.abs().square().sum(1, keepdim=True).sqrt()
    generator = torch.Generator().manual_seed(5)
    return {
        "prior": random_like(torch.zeros(batch, n_x, n_ky, dtype=torch.complex128), 1),
        "mask": (torch.rand(batch, n_ky, generator=generator) < 0.5).double(),
        "kspace": random_like(csm, 2),
        "csm": csm,
    }


def converged(prior, lam, mask, kspace, csm):
    return cg.data_consistency(prior, lam, mask, kspace, csm, n_iterations=200, tolerance=1e-14)


def dense_solution(p: dict[str, torch.Tensor], lam: float) -> torch.Tensor:
    """Solve the normal equations row by row with explicit matrices; an oracle without FFT."""
    n = p["mask"].shape[-1]
    k = torch.arange(n, dtype=torch.float64) - n // 2
    f = torch.exp(-2j * torch.pi * k[:, None] * k / n) / n**0.5
    rows = []
    for b in range(p["prior"].shape[0]):
        m = p["mask"][b].to(torch.complex128)
        for x in range(p["prior"].shape[1]):
            a = torch.cat([f * s for s in p["csm"][b, :, x]])  # (coils * ky, y)
            w = m.repeat(p["csm"].shape[1])
            y = p["kspace"][b, :, x].flatten()
            left = a.mH @ (w[:, None] * a) + lam * torch.eye(n, dtype=torch.float64)
            rows.append(torch.linalg.solve(left, a.mH @ (w * y) + lam * p["prior"][b, x]))
    return torch.stack(rows).reshape(p["prior"].shape)


@pytest.mark.parametrize(("n_x", "n_ky"), [(4, 10), (3, 9)])
def test_data_consistency_matches_a_dense_solve(n_x, n_ky):
    p = problem(n_x, n_ky, batch=2)
    x = converged(p["prior"], LAM, p["mask"], p["kspace"], p["csm"])
    torch.testing.assert_close(x, dense_solution(p, float(LAM)), rtol=1e-9, atol=1e-10)


def test_a_batch_gives_what_its_members_give_alone():
    p = problem(4, 10, batch=3)
    p["kspace"][1] *= 1e3  # scales far apart: a shared step length would show
    together = cg.data_consistency(**p, lam=LAM, n_iterations=6, tolerance=0)
    for i in range(3):
        alone = {name: value[i : i + 1] for name, value in p.items()}
        single = cg.data_consistency(**alone, lam=LAM, n_iterations=6, tolerance=0)
        torch.testing.assert_close(together[i : i + 1], single, rtol=1e-9, atol=1e-9)


def test_solve_stops_at_once_when_the_start_is_the_solution():
    rhs = random_like(torch.zeros(1, 3, 4, dtype=torch.complex128), 0)
    calls = []

    def twice(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return 2 * x

    found = cg.solve(twice, rhs, rhs / 2, n_iterations=5, tolerance=1e-9)
    torch.testing.assert_close(found, rhs / 2)
    assert len(calls) == 1


@pytest.mark.parametrize("tolerance", [0.3, 1e-1, 1e-2, 1e-4])
def test_solve_stops_at_the_first_residual_within_the_tolerance(tolerance: float) -> None:
    weights = torch.linspace(1, 30, 24, dtype=torch.float64).reshape(4, 6)
    rhs = random_like(torch.zeros(4, 6, dtype=torch.complex128), 0)

    def residual(n_iterations: int, tolerance: float = 0.0) -> tuple[float, torch.Tensor]:
        x = cg.solve(lambda x: weights * x, rhs, n_iterations=n_iterations, tolerance=tolerance)
        return float((rhs - weights * x).norm() / rhs.norm()), x

    needed = next(n for n in range(30) if residual(n)[0] <= tolerance)
    assert torch.equal(residual(30, tolerance)[1], residual(needed)[1])
    assert needed > 0


def test_no_step_of_data_consistency_leaves_the_prior() -> None:
    p = problem(4, 6)
    found = cg.data_consistency(**p, lam=torch.tensor(0.1), n_iterations=0)
    assert torch.equal(found, p["prior"])


@pytest.mark.parametrize("n_ky", [6, 7])
def test_implicit_gradients_of_image_lambda_and_mask_pass_gradcheck(n_ky):
    p = problem(2, n_ky)
    # an interior point: the mask is differentiated as a real weight
    mask = torch.rand(1, n_ky, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = (p["prior"], LAM.clone(), mask + 0.1)
    for value in inputs:
        value.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda prior, lam, mask: converged(prior, lam, mask, p["kspace"], p["csm"]), inputs
    )


def test_the_mask_gradient_reaches_lines_that_were_not_acquired():
    p = problem(3, 8)
    mask = p["mask"].clone().requires_grad_()
    converged(p["prior"], LAM, mask, p["kspace"], p["csm"]).abs().square().sum().backward()
    assert mask.grad is not None
    missing = p["mask"] == 0
    step = torch.zeros_like(mask).masked_fill_(missing, 1e-6)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return converged(p["prior"], LAM, weights, p["kspace"], p["csm"]).abs().square().sum()

    difference = (loss(p["mask"] + step) - loss(p["mask"] - step)) / 2e-6
    torch.testing.assert_close(mask.grad[missing].sum(), difference, rtol=1e-5, atol=1e-7)


def test_a_mask_shared_by_a_batch_gets_the_sum_of_the_gradients():
    p = problem(3, 8, batch=2)
    shared = p["mask"][:1].clone().requires_grad_()
    apart = shared.detach().repeat(2, 1).requires_grad_()
    for mask in (shared, apart):
        converged(p["prior"], LAM, mask, p["kspace"], p["csm"]).abs().square().sum().backward()
    assert shared.grad is not None
    assert apart.grad is not None
    torch.testing.assert_close(shared.grad[0], apart.grad.sum(0))


def test_a_small_lambda_at_full_sampling_returns_the_measured_image():
    p = problem(4, 9)
    truth = random_like(p["prior"], 9)
    full = torch.ones(1, 9, dtype=torch.float64)
    kspace = sense.forward(truth, p["csm"], full)
    x = converged(p["prior"], torch.tensor(1e-9, dtype=torch.float64), full, kspace, p["csm"])
    torch.testing.assert_close(x, truth, rtol=1e-7, atol=1e-7)


def test_cg_sense_weighs_the_image_with_two_hundredths_unless_told() -> None:
    p = problem(4, 6)
    given = p["kspace"], p["csm"], p["mask"]
    expected = dense_solution({**p, "prior": torch.zeros_like(p["prior"])}, 0.02)
    found = cg_sense(*given, n_iterations=200, tolerance=1e-14)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(cg_sense(*given), cg_sense(*given, n_iterations=30, tolerance=1e-5))


def test_cg_sense_iterates_thirty_times_unless_told() -> None:
    p = problem(12, 16)
    by_default, thirty, fewer = (
        cg_sense(p["kspace"], p["csm"], p["mask"], lam=1e-6, tolerance=0.0, **n)
        for n in ({}, {"n_iterations": 30}, {"n_iterations": 29})
    )
    assert torch.equal(by_default, thirty)
    assert not torch.equal(by_default, fewer)
