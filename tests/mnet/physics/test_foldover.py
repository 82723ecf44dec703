import numpy as np
import pytest
import torch
from torch import Tensor

from mnet.masks.line_plan import LinePlan
from mnet.physics.coil_maps import coil_maps, maps_and_second
from mnet.physics.foldover import fov_folded
from mnet.physics.fourier import fourier
from tests.training.helpers.generated import volumes
from training.data import simulate
from training.data.simulate import Size

N_X, N_KY = 80, 96


def scan(seed: int, *, overflow: bool, n_coils: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Simulate the calibration lines at 4x of a scan that is drawn to overflow, or to fit."""
    monkeypatch.setattr(simulate, "FOLDED", float(overflow))
    rng = np.random.default_rng(seed)
    size = Size(n_x=N_X, n_ky=N_KY, n_coils=n_coils, edges=False)
    found = simulate.simulate(volumes(), size, rng)
    if overflow and not found.drawn.folded:
        return scan(seed + 1000, overflow=True, n_coils=n_coils, monkeypatch=monkeypatch)
    plan = LinePlan.of(found.acquirable, 4.0)
    return found.measure(rng)[..., torch.from_numpy(plan.calibration)]


def folded(lines: Tensor) -> bool | None:
    return fov_folded(lines, *maps_and_second(lines, N_KY))


@pytest.mark.slow
def test_most_scans_that_overflow_are_told_from_those_that_fit(monkeypatch) -> None:
    """Of base scans 20 of 24 and 2 of 173; five in six of 40 would be 33, a deviation 2.4."""
    said = {
        overflow: [
            folded(scan(seed, overflow=overflow, n_coils=8, monkeypatch=monkeypatch))
            for seed in range(40)
        ]
        for overflow in (True, False)
    }
    assert sum(map(bool, said[True])) >= 26
    assert sum(map(bool, said[False])) <= 3


def bar(overhang: float, n_coils: int = 6) -> Tensor:
    """Return coil images (coils, x, ky) of a bar along ky that ends `overhang` beyond both edges.

    In parts of the field of view; what ends there comes in at the other edge.
    """
    n = 3 * N_KY  # seen three fields of view wide
    x, y = torch.meshgrid(
        (torch.arange(N_X) - N_X // 2) / N_X, (torch.arange(n) - n // 2) / N_KY, indexing="ij"
    )
    angle = 2 * torch.pi * torch.arange(n_coils)[:, None, None] / n_coils
    coils = torch.exp(-2 * ((x - 0.7 * angle.cos()) ** 2 + (y - 0.7 * angle.sin()) ** 2))
    coils = coils * torch.exp(1j * (angle + x * angle.cos() * 2))
    image = ((y.abs() < 0.5 + overhang) & (x.abs() < 0.3)) * (1 + 0.3 * torch.sin(20 * x + 15 * y))
    return (coils * image).reshape(n_coils, N_X, 3, N_KY).sum(2).to(torch.complex64)


def central(images: Tensor, n_lines: int = 16) -> Tensor:
    return fourier(images, dim=-1).narrow(-1, N_KY // 2 - n_lines // 2, n_lines)


@pytest.mark.parametrize(("overhang", "expected"), [(-0.1, False), (0.1, True), (0.2, True)])
@pytest.mark.parametrize("loud", [0.0, 0.05])
def test_what_reaches_beyond_both_edges_is_seen_whatever_scale_and_noise(
    overhang: float, expected: bool, loud: float
) -> None:
    images = bar(overhang)
    generator = torch.Generator().manual_seed(0)
    images += loud * images.abs().max() * torch.randn(images.shape, generator=generator)
    for scale in (1e-6, 1.0, 1e6):
        assert folded(scale * central(images)) is expected


def test_the_second_eigenvalue_is_near_one_where_the_object_folds_and_not_elsewhere() -> None:
    _, second = maps_and_second(central(bar(0.2), 24), N_KY)
    inside = second[N_X // 2 - 20 : N_X // 2 + 20]
    assert float(inside[:, :10].min()) > 0.9  # 0.2 of 96 rows is 19
    assert float(inside[:, N_KY // 2 - 10 : N_KY // 2 + 10].mean()) < 0.5


def test_the_maps_are_those_of_coil_maps() -> None:
    lines = central(bar(0.1))
    torch.testing.assert_close(maps_and_second(lines, N_KY)[0], coil_maps(lines, N_KY))


@pytest.mark.parametrize(("n_coils", "n_lines"), [(1, 16), (6, 5)])
def test_nothing_is_claimed_from_one_coil_or_few_lines(n_coils: int, n_lines: int) -> None:
    assert folded(central(bar(0.2, n_coils), n_lines)) is None


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_claimed_from_noise_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    assert folded(torch.randn(4, N_X, 16, dtype=torch.complex64, generator=generator)) is None


def test_nothing_is_claimed_without_signal() -> None:
    assert folded(torch.zeros(4, N_X, 16, dtype=torch.complex64)) is None
