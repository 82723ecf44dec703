import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mnet.masks.line_plan import LinePlan
from mnet.weight_files import load_weights
from tests.training.helpers import tiny_scans
from training.data.mask_file import read_masks
from training.fit import loupe
from training.fit.loop import read_log
from training.fit.loupe import Config
from training.masks.loupe_mask import LoupeMask, interpolation, load_mask, save_mask


def make_plan(n=48, acceleration=3.0, padding=0):
    acquirable = np.ones(n, dtype=bool)
    acquirable[:padding] = False
    return LinePlan.of(acquirable, acceleration)


def random_mask(seed=0, **settings):
    torch.manual_seed(seed)
    return LoupeMask(**settings)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    tiny_scans.write_cohort(folder, "train", 0, 12)
    tiny_scans.write_cohort(folder, "held", 1000, 4)
    return folder


@pytest.fixture
def config(study, tmp_path):
    return Config(
        scans=str(study / "scans"),
        cohorts=("train",),
        validation=("held",),
        run=str(tmp_path / "run"),
        weights=str(tmp_path / "weights" / "loupe"),
        reconstructor=str(tmp_path / "weights" / "loupe_unet"),
        masks=str(tmp_path / "masks"),
        mask_cohorts=("held",),
        accelerations=(2.0,),
        n_grid=33,
        n_steps=10,
        n_rows=8,
        n_channels=4,
        n_levels=1,
        every=5,
        n_validation=2,
    )


@pytest.mark.parametrize("n", [48, 63, 160])
@pytest.mark.parametrize("acceleration", [2.5, 4.0, 6.0, 8.0])
@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.5])
def test_probabilities_sum_to_the_budget_and_are_probabilities(n, acceleration, shift):
    plan = make_plan(n, acceleration, padding=5)
    mask = random_mask()
    with torch.no_grad():
        mask.weight += shift  # a mean far above and far below the budget
        p = mask.probabilities(plan).numpy()
    assert p.sum() == pytest.approx(plan.n_lines, rel=1e-5)
    assert p.min() >= 0
    assert p.max() <= 1 + 1e-6
    assert np.all(p[plan.calibration] == 1)
    assert np.all(p[~plan.acquirable] == 0)


@pytest.mark.parametrize("acceleration", [2.5, 5.0, 8.0])
def test_deployed_masks_have_the_exact_budget_and_the_most_probable_lines(acceleration):
    plan, mask = make_plan(96, acceleration, padding=7), random_mask(1)
    chosen = mask.mask(plan)
    assert chosen.sum() == plan.n_lines
    assert np.all(chosen[plan.calibration])
    assert not np.any(chosen & ~plan.acquirable)
    p = mask.probabilities(plan).detach().numpy()
    assert p[chosen & plan.movable].min() >= p[~chosen & plan.movable].max()


def test_random_masks_have_the_exact_budget_and_their_frequencies_follow_p():
    plan, mask = make_plan(), random_mask(2)
    drawn = np.stack(mask.random_masks(plan, 4000, np.random.default_rng(0)))
    assert np.all(drawn.sum(1) == plan.n_lines)
    assert len({m.tobytes() for m in drawn}) > 1000
    p = mask.probabilities(plan).detach().numpy()
    # of the exact budget, so likely rows are a little likelier
    np.testing.assert_allclose(drawn.mean(0), p, atol=0.06)
    assert np.corrcoef(drawn.mean(0), p)[0, 1] > 0.99


def test_training_draws_have_the_budget_on_average():
    plan, mask = make_plan(), random_mask(3)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = torch.stack(
            [mask.draw(plan, torch.rand(48, generator=rng)) for _ in range(2000)]
        ).numpy()
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert drawn.sum(1).mean() == pytest.approx(plan.n_lines, abs=0.2)
    assert np.all(drawn[:, plan.calibration] == 1)
    assert np.all(drawn[:, ~plan.acquirable] == 0)


def test_the_gradient_of_a_draw_is_that_of_its_sigmoid():
    plan, mask = make_plan(), random_mask(4)
    uniform = torch.rand(48)
    cost = torch.randn(48)
    (cost * mask.draw(plan, uniform)).sum().backward()
    found = mask.weight.grad.clone()
    mask.zero_grad()
    (cost * torch.sigmoid(12.0 * (mask.probabilities(plan) - uniform))).sum().backward()
    torch.testing.assert_close(found, mask.weight.grad)


def test_interpolation_is_linear_and_constant_beyond_the_grid():
    grid = np.array([0.0, 1.0, 3.0])
    found = interpolation(np.array([-1.0, 0.25, 2.0, 9.0]), grid)
    expected = [[1, 0, 0], [0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(found, expected)


def test_every_row_of_the_reference_size_has_a_weight_of_its_own():
    mask = random_mask(5)
    rows = mask.row_weights(make_plan(160, 4.0)).detach()
    torch.testing.assert_close(rows, mask.weight[0, :160].detach())


def test_between_two_accelerations_weights_are_between():
    mask = random_mask(6)
    at = {n: mask.row_weights(make_plan(160, 160 / n)).detach() for n in (40, 20, 80)}
    plan = make_plan(160, 5.7)
    share = np.log(160 / plan.n_lines / 4) / np.log(2)
    found = mask.row_weights(plan).detach()
    torch.testing.assert_close(found, (1 - share) * at[40] + share * at[20])
    assert torch.equal(at[80], at[40])  # constant beyond


def test_loupe_finds_the_best_lines_of_a_separable_problem():
    plan = make_plan(48, 3.0)
    torch.manual_seed(0)
    mask = LoupeMask([3.0], n_grid=49)
    rng = np.random.default_rng(1)
    energy = torch.from_numpy(rng.permutation(np.linspace(0.1, 2.0, 48))).float()
    rows = np.flatnonzero(plan.movable)
    best = plan.mask(rows[np.argsort(-energy.numpy()[rows])[: plan.n_movable]])

    def missed(chosen):
        return float((energy * ~torch.from_numpy(chosen)).sum())

    start = missed(mask.mask(plan))
    optimiser = torch.optim.Adam(mask.parameters(), lr=2e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1200):
        taken = mask.draw(plan, torch.rand(48, generator=generator))
        # quadratic in the mask, as the error of a reconstruction is in what it misses
        loss = (energy * (1 - taken).square()).sum() / energy.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = mask.mask(plan)
    lowest = missed(best)
    assert missed(found) - lowest < 0.1 * (start - lowest)
    assert (found & best & plan.movable).sum() >= plan.n_movable - 2


def test_training_lowers_the_error_and_beats_its_start(config, tmp_path):
    settings = replace(config, mask_cohorts=(), batch=4, decay=0.95)
    before = loupe.train(replace(settings, n_steps=1, run=str(tmp_path / "start")))
    after = loupe.train(replace(settings, n_steps=150, every=150, mask_rate=3e-2))
    assert after["nrmse"] < before["nrmse"]
    assert after["nrmse_drawn"] < before["nrmse_drawn"]
    assert after["uncertainty"] < before["uncertainty"]


def test_an_interrupted_run_ends_as_an_uninterrupted_one(config, tmp_path, monkeypatch):
    loupe.train(config)
    names = ("loupe", "loupe_unet")
    whole = [load_file(tmp_path / "weights" / f"{name}.safetensors") for name in names]
    log = read_log(tmp_path / "run")
    again = replace(config, run=str(tmp_path / "again"))
    loss, calls = loupe.recon_loss, itertools.count()

    def interrupted(*arguments):
        if next(calls) == 36:  # five steps take 10, the validation after them 22
            raise KeyboardInterrupt
        return loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loupe, "recon_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loupe.train(again)
    assert [entry["step"] for entry in read_log(tmp_path / "again")] == [5]
    loupe.train(again)
    assert read_log(tmp_path / "again") == log
    for name, tensors in zip(names, whole, strict=True):
        found = load_file(tmp_path / "weights" / f"{name}.safetensors")
        assert all(torch.equal(found[key], value) for key, value in tensors.items())


def test_masks_on_disk_are_those_of_the_weights(config):
    loupe.train(config)
    found = read_masks(Path(config.masks) / "held.npz")
    mask = load_mask(Path(config.weights))
    card = json.loads(Path(config.weights).with_suffix(".json").read_text())
    assert found.settings == {"sampler": "LOUPE", "weights": card["sha256"], "cohort": "held"}
    plan = tiny_scans.draw(0).plan()
    assert len(found.masks) == 4
    for chosen in found.masks.values():
        np.testing.assert_array_equal(chosen, mask.mask(plan))
        assert chosen.sum() == plan.n_lines


def test_the_mask_and_its_unet_both_learn(config):
    loupe.train(config)
    torch.manual_seed(config.seed)
    start = LoupeMask(config.accelerations, config.n_grid)
    assert not torch.equal(load_mask(Path(config.weights)).weight, start.weight)
    assert load_weights(config.reconstructor)[0].unet.out.weight.abs().max() > 0


def test_a_mask_survives_the_disk_and_damage_is_noticed(tmp_path):
    mask = random_mask(7, accelerations=[3.0, 5.0, 9.0], n_grid=21, slope=4.0)
    save_mask(mask, tmp_path / "a", {"note": 1})
    again = load_mask(tmp_path / "a")
    assert torch.equal(again.weight, mask.weight)
    assert again.config == mask.config
    save_mask(random_mask(8), tmp_path / "b", {})
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes())
    with pytest.raises(ValueError, match="its card says"):
        load_mask(tmp_path / "a")
    (tmp_path / "a.json").write_text(json.dumps({"architecture": {"class": "MoDL"}}))
    with pytest.raises(ValueError, match="holds a MoDL, expected a LoupeMask"):
        load_mask(tmp_path / "a")
    with pytest.raises(ValueError, match="do not increase"):
        LoupeMask([8.0, 4.0])
