import math
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import sigpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sigpy.mri.app import EspiritCalib
from torch import Tensor

from mnet.physics.espirit import calibration_from_lines, espirit
from mnet.physics.fourier import fourier, inverse_fourier
from tests.mnet.helpers.espirit_plain import eigenmaps
from training.real.bart import read_cfl, write_cfl

Array = NDArray[np.complex64]


def grid(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) / (n / 2) for n in shape]
    x, y = torch.meshgrid(*axes, indexing="ij")
    return x, y


def simulate(shape: tuple[int, int], n_coils: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit-norm sensitivities, the object's support, and coil images, in complex128."""
    x, y = grid(shape)
    angle = (torch.arange(n_coils, dtype=torch.float64) * 2 * math.pi / n_coils)[:, None, None]
    reach = (x - 1.2 * angle.cos()) ** 2 + (y - 1.2 * angle.sin()) ** 2
    csm = torch.exp(-reach / 1.5 + 1j * (x * (3 * angle).cos() + y * (2 * angle).sin() + angle))
    csm = csm / csm.norm(dim=0)
    support = x**2 + y**2 < 0.7**2
    texture = 1 + 0.4 * torch.sin(11 * x) * torch.cos(9 * y) + 0.3j * torch.sin(3 * x + 5 * y)
    return csm, support, csm * support * texture


def center(kspace: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut out the calibration region around DC."""
    for dim, n in zip((-2, -1), size, strict=True):
        kspace = kspace.narrow(dim, kspace.shape[dim] // 2 - n // 2, n)
    return kspace


def calibrate(image: Tensor, size: tuple[int, int]) -> Tensor:
    return center(fourier(fourier(image, -2), -1), size)


def aligned_distance(a: Array, b: Array, where: NDArray[np.bool_]) -> float:
    """Relative L2 distance on some pixels, after the phase of each pixel has been matched."""
    phase = np.exp(1j * np.angle((a.conj() * b).sum(0)))
    return float(np.linalg.norm((a * phase - b)[:, where]) / np.linalg.norm(b[:, where]))


def bart_ecalib(kspace: Array, folder: Path, threshold: float, crop: float, *more: str) -> Array:
    """Run BART, every pixel diagonalised.

    Its -t is a part of the largest eigenvalue, the square of the singular value. Two of its options
    are not in its help: without -C it moves the calibration block along the readout to where the
    energy is greatest; without -O it stops after 30 power iterations.
    """
    write_cfl(folder / "kspace", kspace.transpose(1, 2, 0)[:, :, None, :])
    settings = f"-C -O -m1 -k6:6:1 -r24:24:1 -t{threshold**2:.8f} -c{crop}".split()
    command = ["bart", "ecalib", *settings, *more, "kspace", "maps", "eigenvalues"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return read_cfl(folder / "maps").transpose(2, 0, 1)


needs_bart = pytest.mark.skipif(shutil.which("bart") is None, reason="bart is not installed")


@pytest.fixture(params=["brain_t2_4ch_gpunufft", "brain_t2_4ch_agile_os"])
def brain(request: pytest.FixtureRequest, shared: Path) -> Array:
    """k-space (coils, kx, ky) of a real brain, without readout oversampling."""
    with h5py.File(shared / "data" / "raw" / f"{request.param}.h5") as file:
        kspace = torch.from_numpy(file["kspace"][0])
    if request.param.endswith("_os"):
        n = kspace.shape[1] // 2
        kspace = fourier(inverse_fourier(kspace, 1).narrow(1, n // 2, n), 1)
    return kspace.numpy()


@needs_bart
@pytest.mark.parametrize("crop", [0.8, 0.95])
def test_maps_of_a_real_brain_are_those_of_bart_and_sigpy_once_these_have_converged(
    brain: Array, crop: float, tmp_path: Path
) -> None:
    threshold = 0.02
    settings = {"calib_width": 24, "thresh": threshold, "kernel_width": 6, "crop": crop}
    theirs = EspiritCalib(brain, **settings, max_iter=400, show_pbar=False).run()
    bart = bart_ecalib(brain, tmp_path, threshold, crop)
    calibration = center(torch.from_numpy(brain), (24, 24))
    shape = (brain.shape[1], brain.shape[2])
    ours = espirit(calibration, shape, kernel=6, threshold=threshold, crop=crop).numpy()

    supports = [np.abs(maps).sum(0) > 0 for maps in (ours, theirs, bart)]
    common = np.logical_and.reduce(supports)
    assert common.mean() > 0.5
    assert (supports[0] != supports[1]).mean() < 1e-4
    assert (supports[0] != supports[2]).mean() < 1e-4
    assert aligned_distance(ours, theirs, common) < 1e-4
    assert aligned_distance(ours, bart, common) < 1e-4


def test_phase_follows_the_first_coil_as_in_sigpy(brain: Array) -> None:
    theirs = EspiritCalib(brain, crop=0.9, show_pbar=False).run()
    shape = (brain.shape[1], brain.shape[2])
    ours = espirit(center(torch.from_numpy(brain), (24, 24)), shape, crop=0.9).numpy()
    where = (np.abs(theirs).sum(0) > 0) & (np.abs(ours).sum(0) > 0)
    assert np.linalg.norm((ours - theirs)[:, where]) < 1e-2 * np.linalg.norm(theirs[:, where])


@needs_bart
def test_soft_crop_weights_are_those_of_bart(brain: Array, tmp_path: Path) -> None:
    weight = np.linalg.norm(bart_ecalib(brain, tmp_path, 0.02, 0.8, "-S"), axis=0)
    shape = (brain.shape[1], brain.shape[2])
    calibration = center(torch.from_numpy(brain), (24, 24))
    ours = espirit(calibration, shape, crop=0.8, soft_crop=True).norm(dim=0).numpy()
    assert np.mean((weight > 0.05) & (weight < 0.95)) > 0.05  # the fade covers some pixels
    assert np.sqrt(np.mean((ours - weight) ** 2)) < 1e-4


@pytest.mark.parametrize("size", [(9, 12), (11, 7), (8, 8)])
def test_maps_equal_the_textbook_algorithm_with_padded_kernels(size: tuple[int, int]) -> None:
    """Whole SVD, every kernel padded and transformed, every pixel diagonalised, all in numpy."""
    shape, kernel, threshold = (20, 17), 4, 0.03
    calibration = calibrate(simulate(shape, n_coils=3)[2], size).numpy()
    patches = np.lib.stride_tricks.sliding_window_view(calibration, (kernel, kernel), axis=(1, 2))
    rows = patches.transpose(1, 2, 0, 3, 4).reshape(-1, 3 * kernel**2)
    _, singular, basis = np.linalg.svd(rows, full_matrices=False)
    kernels = basis[singular > threshold * singular[0]].reshape(-1, 3, kernel, kernel)
    padded = sigpy.resize(kernels, [len(kernels), 3, *shape])
    images = sigpy.ifft(padded, axes=(-2, -1)) * np.sqrt(np.prod(shape)) / kernel
    gram = np.einsum("nixy,njxy->xyij", images, images.conj())
    values, vectors = np.linalg.eigh(gram)

    maps, eigenvalues = eigenmaps(
        torch.from_numpy(calibration), shape, kernel=kernel, threshold=threshold
    )
    every = eigenvalues.numpy().transpose(1, 2, 0)[..., ::-1]
    assert np.allclose(every, values, atol=1e-3)
    clear = values[..., -2] < 0.9 * values[..., -1]  # where the iteration can tell them apart
    assert clear.mean() > 0.5
    want = vectors[..., -1].transpose(2, 0, 1)
    assert aligned_distance(maps.numpy(), want, clear) < 1e-5
    assert np.allclose(every[clear], values[clear], atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "size", "tolerance"),
    [
        ((96, 80), (24, 24), 0.01),
        ((96, 80), (24, 15), 0.01),
        ((75, 81), (21, 15), 0.01),
        ((96, 81), (24, 9), 0.03),  # the kernel shrinks to 5 along ky
        ((96, 80), (24, 7), 0.05),
    ],
)
def test_known_sensitivities_are_recovered(
    shape: tuple[int, int], size: tuple[int, int], tolerance: float
) -> None:
    csm, support, image = simulate(shape)
    maps = espirit(calibrate(image, size), shape)
    kept = maps.abs().sum(0) > 0
    assert (kept & support).sum() >= 0.99 * support.sum()
    assert aligned_distance(maps.numpy(), csm.numpy(), (kept & support).numpy()) < tolerance
    residual = image - maps * (maps.conj() * image).sum(0)
    assert residual.norm() < 2 * tolerance * image.norm()


def test_maps_have_unit_norm_inside_are_zero_outside_and_real_in_the_first_coil() -> None:
    _, _, image = simulate((64, 60))
    calibration = calibrate(image, (24, 16))
    maps = espirit(calibration, (64, 60), crop=0.9)
    norm = maps.norm(dim=0)
    inside = norm > 0
    assert 0.3 < inside.double().mean() < 0.8
    assert torch.allclose(norm[inside], torch.ones_like(norm[inside]))
    assert maps[0].imag.abs().max() < 1e-12
    assert maps[0].real.min() >= 0
    x, y = grid((64, 60))
    resolution = 2 / 6  # of a kernel of 6 taps, the field of view being 2
    assert not inside[(x**2 + y**2).sqrt() > 0.7 + resolution].any()
    assert torch.equal(inside, eigenmaps(calibration, (64, 60))[1][0] > 0.9)


def test_batch_equals_its_slices_one_by_one() -> None:
    # Different objects and so different numbers of kernels.
    first = calibrate(simulate((40, 33))[2], (16, 12))
    second = calibrate(simulate((40, 33))[2].roll(5, -1), (16, 12)) + 0.02 * first.flip(0)
    batch = torch.stack([first, second, 3e-6 * first]).reshape(3, 1, 5, 16, 12)
    maps = espirit(batch, (40, 33))
    assert maps.shape == (3, 1, 5, 40, 33)
    for i in range(3):
        assert torch.allclose(maps[i, 0], espirit(batch[i, 0], (40, 33)), atol=1e-9)
    assert torch.allclose(maps[2], maps[0], atol=1e-9)  # the scale of the data has no say
    assert not torch.allclose(maps[1], maps[0], atol=1e-2)


def test_single_precision_agrees_with_double() -> None:
    calibration = calibrate(simulate((48, 40))[2], (24, 15))
    double, value = eigenmaps(calibration, (48, 40))
    single, value_single = eigenmaps(calibration.to(torch.complex64), (48, 40))
    assert (double.dtype, value.dtype) == (torch.complex128, torch.float64)
    assert (single.dtype, value_single.dtype) == (torch.complex64, torch.float32)
    assert torch.allclose(value_single.double(), value, atol=1e-4)
    inside = value[0] > 0.95
    assert (single - double)[:, inside].norm() < 1e-3 * double[:, inside].norm()


def test_single_coil_gives_one_inside_and_zero_outside() -> None:
    _, support, image = simulate((64, 60), n_coils=1)
    maps = espirit(calibrate(image, (24, 24)), (64, 60))[0]
    assert set(maps.real.round(decimals=9).flatten().tolist()) == {0.0, 1.0}
    assert maps.imag.abs().max() < 1e-12
    assert maps[support].real.mean() > 0.99
    assert maps[~support].real.mean() < 0.6


def test_short_axis_shrinks_the_kernel_to_half_of_it_rounded_up() -> None:
    calibration = calibrate(simulate((32, 32))[2], (7, 7))
    assert torch.equal(
        espirit(calibration, (32, 32), kernel=6), espirit(calibration, (32, 32), kernel=4)
    )
    assert not torch.equal(
        espirit(calibration, (32, 32), kernel=4), espirit(calibration, (32, 32), kernel=3)
    )


def test_empty_calibration_gives_zero_maps() -> None:
    maps, eigenvalues = eigenmaps(torch.zeros(3, 12, 12, dtype=torch.complex64), (16, 16))
    assert not maps.any()
    assert not eigenvalues.any()


def test_unusable_calibration_is_refused_with_what_was_expected() -> None:
    good = torch.ones(3, 12, 12, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"at least 4 x 4 .* got 12 x 3"):
        espirit(good[..., :3], (16, 16))
    with pytest.raises(ValueError, match="at most the maps' 16 x 8, got 12 x 12"):
        espirit(good, (16, 8))
    with pytest.raises(ValueError, match=r"expected complex .* got torch.float32"):
        espirit(good.real, (16, 16))
    with pytest.raises(ValueError, match="finite"):
        espirit(good * math.nan, (16, 16))


@pytest.mark.parametrize("n", [40, 41])
@pytest.mark.parametrize("n_x", [24, 23])
def test_calibration_from_lines_is_the_centre_of_kspace(n: int, n_x: int) -> None:
    kspace = fourier(fourier(simulate((n, 36))[2], -2), -1)
    lines = inverse_fourier(kspace, -2)[..., 36 // 2 - 15 // 2 :][..., :15]
    got = calibration_from_lines(lines, n_x)
    assert torch.allclose(got, center(kspace, (n_x, 15)))
    assert calibration_from_lines(lines[:, :10], n_x).shape == (5, 10, 15)


def angles(maps: Tensor, exact: Tensor) -> Tensor:
    """Angles in rad between maps and exact ones (..., coils, x, y), where there are maps."""
    dot = (exact.conj() * maps).sum(-3, keepdim=True)
    inside = (maps.abs().sum(-3) > 0) & (exact.abs().sum(-3) > 0)
    return (maps - exact * dot).norm(dim=-3)[inside]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    n_coils=st.integers(1, 9),
    shape=st.tuples(st.integers(30, 130), st.integers(30, 130)),
    size=st.tuples(st.integers(9, 24), st.integers(9, 24)),
    kernel=st.integers(3, 7),
    threshold=st.sampled_from([0.002, 0.02, 0.05]),
    noise=st.sampled_from([0.0, 0.01, 0.1]),
    crop=st.sampled_from([0.0, 0.7, 0.9]),
)
def test_fast_maps_are_the_plain_ones(
    n_coils: int,
    shape: tuple[int, int],
    size: tuple[int, int],
    kernel: int,
    threshold: float,
    noise: float,
    crop: float,
) -> None:
    block = calibrate(simulate(shape, n_coils)[2], size)
    generator = torch.Generator().manual_seed(sum(shape))
    more = noise * block.abs().amax() * torch.randn(2, *block.shape, 2, generator=generator)
    batch = block + torch.view_as_complex(more.double())
    maps = espirit(batch, shape, kernel=kernel, threshold=threshold, crop=crop)
    exact, values = eigenmaps(batch, shape, kernel=kernel, threshold=threshold)
    value = values[:, 0]
    # Where the second eigenvalue is 1 % below the first: elsewhere no vector is the one.
    apart = (values[:, 1:] < 0.99 * values[:, :1]).all(1)
    flipped = (maps.abs().sum(-3) > 0) != (value > crop)
    assert not (flipped & ((value - crop).abs() > 1e-5)).any()
    clear = apart & (value > max(crop, 1e-6))
    assert (angles(maps * clear.unsqueeze(-3), exact) < 1e-3).all()


@pytest.mark.parametrize("n_ky", [15, 24])
def test_single_precision_at_full_size_is_within_a_thousandth_of_plain_double(n_ky: int) -> None:
    shape = (160, 184)
    block = calibrate(simulate(shape, 15)[2], (24, n_ky))
    exact, values = eigenmaps(block, shape)
    value = values[0]
    maps = espirit(block.to(torch.complex64), shape, crop=0.8)
    error = angles(maps.to(torch.complex128), exact * (value > 0.8))
    assert error.square().mean().sqrt() < 1e-3
    assert (((maps.abs().sum(0) > 0) != (value > 0.8)).double().mean()) < 1e-3
    assert not math.isnan(float(error.amax()))
