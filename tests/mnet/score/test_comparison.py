import numpy as np
import pytest
import torch

from mnet.masks.densities import equispaced
from mnet.masks.line_plan import LinePlan
from mnet.physics.fourier import fourier
from mnet.recon.linear import cg_sense, zero_filled
from mnet.recon.modl import MoDL
from mnet.sampler.mnet_select import MNetSelect
from mnet.score.comparison import (
    Volume,
    compare,
    hamming,
    reconstruct,
    reference,
    rss,
    sampler_masks,
)

N_SLICES, N_COILS, N_X, N_KY = 3, 4, 20, 64


@pytest.fixture
def plan() -> LinePlan:
    acquirable = np.zeros(N_KY, dtype=bool)
    acquirable[6:58] = True
    return LinePlan.of(acquirable, 2.0)


def smooth_maps() -> torch.Tensor:
    """Gaussian coil profiles around the field of view, normalised to unit norm over coils."""
    x = torch.linspace(-1, 1, N_X)[None, :, None]
    y = torch.linspace(-1, 1, N_KY)[None, None, :]
    angle = torch.arange(N_COILS)[:, None, None] * (2 * np.pi / N_COILS)
    weight = torch.exp(-((x - angle.cos()) ** 2 + (y - angle.sin()) ** 2) / 2)
    csm = torch.polar(weight, angle + x * y)
    return csm / csm.abs().square().sum(0, keepdim=True).sqrt()


@pytest.fixture
def csm() -> torch.Tensor:
    return smooth_maps().expand(N_SLICES, -1, -1, -1)


@pytest.fixture
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    blob = torch.zeros(N_SLICES, N_X, N_KY)
    for i, width in enumerate([44, 20, 8]):  # slices that look different
        inside = blob[i, 3:17, 10 : 10 + width]
        inside += 1 + torch.rand(inside.shape, generator=generator)
    return blob.to(torch.complex64)


@pytest.fixture
def volume(plan: LinePlan, csm: torch.Tensor, image: torch.Tensor) -> Volume:
    kspace = fourier(csm * image[:, None], dim=-1)
    kspace = torch.where(torch.from_numpy(plan.acquirable), kspace, 0)
    return Volume(kspace=kspace, plan=plan)


@pytest.fixture
def sampler() -> MNetSelect:
    """A sampler with large random weights, so that its masks depend on the slice."""
    torch.manual_seed(0)
    model = MNetSelect().eval()
    torch.nn.init.normal_(model.bodies[0].embed[3].weight, std=5.0)
    torch.nn.init.normal_(model.choose[0].weight, std=100.0)
    return model.requires_grad_(False)


def full(volume: Volume) -> np.ndarray:
    return np.tile(volume.plan.acquirable, (volume.n_slices, 1))


def test_zero_filled_from_all_acquirable_lines_is_the_reference(volume, csm) -> None:
    # only float32 rounding is left
    assert torch.equal(
        reconstruct(volume, csm, full(volume), "zero_filled"), reference(volume, csm)
    )


def test_reference_of_fully_encoded_data_is_the_object(plan, csm, image) -> None:
    everything = LinePlan.of(np.ones(N_KY, dtype=bool), 2.0)
    volume = Volume(kspace=fourier(csm * image[:, None], dim=-1), plan=everything)
    # unit-norm maps: combining undoes them, and so does the root sum of squares of magnitudes
    torch.testing.assert_close(reference(volume, csm), image.abs(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rss(volume), image.abs(), rtol=1e-5, atol=1e-5)


def test_every_sampler_has_exactly_the_budget_within_the_acquirable_lines(volume, plan) -> None:
    drawn = sampler_masks(volume, MNetSelect(), seeds=[0, 1, 2])
    assert set(drawn) == {
        "mnet_select",
        "best_single",
        "shuffled",
        "uniform_random",
        "variable_density",
        "equispaced",
        "low_pass",
    }
    for arrays in drawn.values():
        for mask in arrays:
            assert mask.shape == (N_SLICES, N_KY)
            assert (mask.sum(axis=1) == plan.n_lines).all()
            assert not (mask & ~plan.acquirable).any()
            assert (mask & plan.calibration).sum() == N_SLICES * plan.calibration.sum()


def test_the_best_single_mask_is_that_of_the_sampler_in_every_slice(volume, sampler) -> None:
    drawn = sampler_masks(volume, sampler, seeds=[])
    (fixed,) = drawn["best_single"]
    assert np.array_equal(fixed, np.stack([sampler.population(volume.plan)] * N_SLICES))
    assert not np.array_equal(drawn["mnet_select"][0], fixed)


def test_random_samplers_differ_between_seeds_and_slices(volume) -> None:
    drawn = sampler_masks(volume, MNetSelect(), seeds=[0, 1])
    for name in ("uniform_random", "variable_density"):
        first, second = drawn[name]
        assert not np.array_equal(first, second)
        assert not np.array_equal(first[0], first[1])
    assert len(drawn["low_pass"]) == 1


def test_shuffled_gives_every_slice_the_mask_of_another(volume, sampler) -> None:
    drawn = sampler_masks(volume, sampler, seeds=[])
    adaptive, shuffled = drawn["mnet_select"][0], drawn["shuffled"][0]
    assert hamming(adaptive) > 0
    for i in range(N_SLICES):
        assert np.array_equal(shuffled[i], adaptive[(i + 1) % N_SLICES])


def test_hamming_is_the_mean_over_pairs_of_rows_that_differ() -> None:
    masks = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]], dtype=bool)
    assert hamming(masks) == pytest.approx((2 + 4 + 2) / 3)


def test_one_slice_has_no_shuffled_mask_and_no_distance(volume) -> None:
    one = Volume(kspace=volume.kspace[:1], plan=volume.plan)
    drawn = sampler_masks(one, MNetSelect(), seeds=[0])
    assert "shuffled" not in drawn
    assert hamming(drawn["mnet_select"][0]) is None


def test_the_adaptive_mask_does_not_depend_on_lines_outside_the_calibration(
    volume, sampler
) -> None:
    other = volume.kspace.clone()
    other[..., ~torch.from_numpy(volume.plan.calibration)] = torch.nan
    blind = Volume(kspace=other, plan=volume.plan)
    for a, b in zip(
        sampler_masks(volume, sampler, [])["mnet_select"],
        sampler_masks(blind, sampler, [])["mnet_select"],
        strict=True,
    ):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("method", ["modl", "cg_sense", "zero_filled"])
def test_lines_outside_the_mask_are_never_used(volume, csm, method) -> None:
    mask = sampler_masks(volume, MNetSelect(), seeds=[0])["uniform_random"][0]
    spoilt = torch.where(torch.from_numpy(mask)[:, None, None], volume.kspace, torch.nan)
    blind = Volume(kspace=spoilt, plan=volume.plan)
    model = MoDL(n_channels=4, n_levels=1, n_unrolls=2)
    assert torch.equal(
        reconstruct(volume, csm, mask, method, model), reconstruct(blind, csm, mask, method, model)
    )


def test_compare_gives_a_row_per_sampler_and_method_with_means_over_slices(volume, csm) -> None:
    samplers = sampler_masks(volume, MNetSelect(), seeds=[0, 1])
    seen = []
    rows = compare(
        volume,
        samplers,
        None,
        methods=["cg_sense", "zero_filled"],
        csm=csm,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(rows) == 2 * len(samplers)
    assert seen == [(i + 1, 18) for i in range(18)]  # 5 samplers once and 2 twice, two methods
    for row in rows:
        assert row["acceleration"] == pytest.approx(52 / 26)
        assert row["acceleration_encoded"] == pytest.approx(64 / 26)
        assert row["n_seeds"] == len(samplers[row["sampler"]])
        assert len(row["per_slice"]) == N_SLICES
        assert row["nrmse"] == pytest.approx(np.mean([s["nrmse"] for s in row["per_slice"]]))
        assert row["nrmse"] == pytest.approx(np.mean(row["nrmse_per_seed"]))


def test_cg_sense_of_noiseless_data_is_closer_than_zero_filled(volume, csm) -> None:
    mask = torch.from_numpy(equispaced(volume.plan)).float().expand(N_SLICES, -1)
    truth = reference(volume, csm)
    # without noise the default weight against it only hurts
    cg = volume.to_recon_space(cg_sense(volume.kspace, csm, mask, lam=1e-3)).abs()
    zero = volume.to_recon_space(zero_filled(volume.kspace, csm, mask)).abs()
    assert (cg - truth).norm() < 0.5 * (zero - truth).norm()


def test_images_are_cropped_about_the_pixel_of_the_centre(volume, csm) -> None:
    cropped = Volume(kspace=volume.kspace, plan=volume.plan, crop=(10, 31))
    whole = reference(volume, csm)
    small = reference(cropped, csm)
    assert small.shape == (N_SLICES, 10, 31)
    assert torch.equal(small[:, 5, 15], whole[:, N_X // 2, N_KY // 2])


def test_a_larger_matrix_interpolates_and_keeps_intensity_and_position(volume, csm) -> None:
    double = Volume(kspace=volume.kspace, plan=volume.plan, matrix=(2 * N_X, 2 * N_KY))
    # band-limited interpolation passes through the samples it was given
    torch.testing.assert_close(
        reference(double, csm)[:, ::2, ::2], reference(volume, csm), rtol=1e-4, atol=1e-4
    )


def test_images_of_the_first_seed_are_kept_on_request(volume, csm) -> None:
    drawn = {"uniform_random": sampler_masks(volume, MNetSelect(), [4, 5])["uniform_random"]}
    keep = {}
    compare(volume, drawn, None, methods=["zero_filled"], csm=csm, keep=keep)
    first = reconstruct(volume, csm, drawn["uniform_random"][0], "zero_filled")
    assert list(keep) == [("uniform_random", "zero_filled")]
    assert torch.equal(keep["uniform_random", "zero_filled"], first)


def test_masks_off_the_budget_are_refused_by_name(volume, csm) -> None:
    mask = full(volume)
    with pytest.raises(ValueError, match=r"greedy have \[52\] lines, expected 26"):
        compare(volume, {"greedy": [mask]}, None, methods=["zero_filled"], csm=csm)


def test_kspace_of_another_width_than_the_plan_is_refused(plan) -> None:
    with pytest.raises(ValueError, match=r"expected \(slices, coils, x, 64\)"):
        Volume(kspace=torch.zeros(1, 2, 8, 63, dtype=torch.complex64), plan=plan)


def test_modl_without_a_model_is_refused(volume, csm) -> None:
    with pytest.raises(ValueError, match="needs a model"):
        reconstruct(volume, csm, full(volume), "modl")
