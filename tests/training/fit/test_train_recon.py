"""Reconstructors from scans to deployed weights, in seconds and without data."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mnet.masks.densities import uniform_random
from mnet.masks.family import family
from mnet.masks.line_plan import LinePlan
from mnet.physics import sense
from mnet.physics.fourier import fourier, inverse_fourier
from mnet.recon.conditions import conditions
from mnet.recon.modl import MoDL
from mnet.recon.unet import UNetReconstructor
from mnet.weight_files import load_weights
from tests.training.helpers import tiny_scans
from tests.training.helpers.generated import cohort, volumes
from training.data import corpus
from training.data.mask_file import write_masks
from training.fit import train_recon
from training.fit.train_recon import Config

N_SCANS = 6


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    tiny_scans.write_cohort(folder, "base", 0, N_SCANS)
    tiny_scans.write_cohort(folder, "other", 100, 2)
    tiny_scans.write_cohort(folder, "held", 1000, 3)
    return folder / "scans"


@pytest.fixture(scope="module")
def anatomy() -> corpus.Sample:
    return corpus.draw(volumes(), cohort(), 0)


@pytest.fixture
def config(scans: Path, tmp_path: Path) -> Config:
    return Config(
        scans=str(scans),
        cohorts=("base", "other"),
        validation=("held",),
        parts=("head-1", "knee-1a"),
        run=str(tmp_path / "run"),
        weights=str(tmp_path / "weights"),
        n_steps=6,
        n_rows=6,
        n_channels=4,
        n_levels=1,
        n_unrolls=2,
        n_unrolls_at_first=1,
        n_cg=3,
        every=3,
        n_validation=2,
    )


def elsewhere(config: Config, tmp_path: Path, name: str, **changes: object) -> Config:
    places = {"run": str(tmp_path / f"{name}_run"), "weights": str(tmp_path / name)}
    return replace(config, **places, **changes)


def tensors(config: Config) -> dict[str, torch.Tensor]:
    return load_file(f"{config.weights}.safetensors")


def equal(a: Config, b: Config) -> bool:
    first, second = tensors(a), tensors(b)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


KINDS = pytest.mark.parametrize("kind", ["modl", "unet"])


@KINDS
def test_a_resumed_run_equals_an_uninterrupted_one(config, tmp_path, monkeypatch, kind):
    config = replace(config, kind=kind)
    train_recon.train(config)
    other = elsewhere(config, tmp_path, "other")

    class Stopped(Exception):  # noqa: N818
        pass

    def stop_in_step_4(model: torch.nn.Module, config: Config, step: int) -> None:
        if step == 4:
            raise Stopped
        shorten(model, config, step)

    shorten = train_recon.set_unrolls
    monkeypatch.setattr(train_recon, "set_unrolls", stop_in_step_4)
    with pytest.raises(Stopped):
        train_recon.train(other)
    monkeypatch.undo()
    assert json.loads((tmp_path / "other_run" / "checkpoint.json").read_text())["step"] == 3
    train_recon.train(other)
    assert equal(config, other)


@KINDS
def test_training_follows_from_its_seed(config, tmp_path, kind):
    config = replace(config, kind=kind)
    again = elsewhere(config, tmp_path, "again")
    other = elsewhere(config, tmp_path, "other", seed=1)
    for one in (config, again, other):
        train_recon.train(one)
    assert equal(config, again)
    assert not equal(config, other)


@pytest.mark.parametrize(("kind", "built"), [("modl", MoDL), ("unet", UNetReconstructor)])
def test_a_finished_run_changes_no_weights_and_its_card_says_what_it_was(config, kind, built):
    config = replace(config, kind=kind)
    train_recon.train(config)
    before = tensors(config)
    figures = train_recon.train(config)
    assert all(torch.equal(before[name], value) for name, value in tensors(config).items())
    model, card = load_weights(config.weights)
    assert type(model) is built
    assert set(figures) == {kind, "cg_sense", "zero_filled"}
    assert card["validation"] == figures
    assert card["n_scans"] == N_SCANS + 2
    assert card["training"]["kind"] == kind
    assert {entry["subject"] for entry in card["data"]} == {"head-1", "knee-1"}
    assert all(entry["licence"] for entry in card["data"])
    assert card["commit"]


def test_the_command_line_trains_a_configuration(config, tmp_path, monkeypatch, capsys):
    path = tmp_path / "config.json"
    values = {name: getattr(config, name) for name in Config.__dataclass_fields__}
    path.write_text(json.dumps(values))
    monkeypatch.setattr(sys, "argv", ["train_recon", "--config", str(path)])
    train_recon.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == load_weights(config.weights)[1]["validation"]


@KINDS
def test_a_reconstructor_learns_to_fill_in_one_scan(anatomy, kind):
    torch.manual_seed(0)
    model = MoDL(8, 1, 1, 4) if kind == "modl" else UNetReconstructor(8, 2)
    kspace, csm = train_recon.band(anatomy, 24, np.random.default_rng(0))
    mask = torch.from_numpy(family(anatomy.plan(6.0))[0]).float()[None]
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = train_recon.recon_loss(model, kspace, csm, mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_is_the_relative_error_against_the_image_of_all_lines(anatomy):
    kspace, csm = train_recon.band(anatomy, 20, np.random.default_rng(0))
    mask = torch.from_numpy(anatomy.plan().calibration).float()[None]
    loss = train_recon.recon_loss(sense.adjoint, kspace, csm, mask)
    image = sense.adjoint(kspace, csm, mask).numpy()
    truth = sense.adjoint(kspace, csm, torch.ones_like(mask)).numpy()
    expected = np.linalg.norm(image - truth) / np.linalg.norm(truth)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_training_without_scans_says_which_cohort_to_make(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no scans in .*nobody: make the cohort first"):
        train_recon.train(replace(config, cohorts=("base", "nobody")))


def test_an_unknown_reconstructor_is_refused(config):
    with pytest.raises(ValueError, match="unknown reconstructor 'resnet', expected modl or unet"):
        train_recon.train(replace(config, kind="resnet"))


# --- the published MoDL's lambda


def lam(config: Config) -> list[float]:
    """Return the weights of all steps but CG-SENSE's for a typical scan."""
    model = load_weights(config.weights)[0]
    assert isinstance(model, MoDL)
    return model.lam(torch.zeros(1, 3))[0, 1:].tolist()


def test_a_fixed_lambda_stays_where_it_was_and_the_network_learns(config, tmp_path):
    fast = replace(config, learning_rate=0.1)  # most of 6 steps is warm-up
    fixed = replace(fast, lam=100.0, learn_lam=False)
    train_recon.train(fixed)
    assert lam(fixed) == pytest.approx([100.0] * len(lam(fixed)), rel=1e-5)
    assert tensors(fixed)["denoiser.out.weight"].any()
    learnt = elsewhere(fast, tmp_path, "learnt")
    train_recon.train(learnt)
    assert lam(learnt) != pytest.approx([0.05] * len(lam(learnt)), rel=1e-4)
    further = elsewhere(fixed, tmp_path, "further", start=fixed.weights)
    train_recon.train(further)
    assert lam(further) == lam(fixed)
    assert not equal(further, fixed)


# --- masks


def masks_of(scans: Path, cohort: str, seed: int) -> dict[int, np.ndarray]:
    """Return another mask for every scan of a cohort."""
    rng = np.random.default_rng(seed)
    files = sorted((scans / cohort).glob("*.safetensors"))
    return {i: uniform_random(corpus.load(path).plan(), rng) for i, path in enumerate(files)}


@pytest.fixture
def given(config: Config, scans: Path, tmp_path: Path) -> dict[str, dict[int, np.ndarray]]:
    """Masks on disk for every scan of all cohorts."""
    found = {name: masks_of(scans, name, i) for i, name in enumerate(("base", "other", "held"))}
    for name, masks in found.items():
        write_masks(tmp_path / "masks" / f"{name}.npz", masks, {"sampler": "test"})
    return found


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, np.ndarray]]:
    """Record the cohort, scan and mask of every training step from here on."""
    steps: list[tuple[str, int, np.ndarray]] = []
    last: list[Path] = []
    loading, mirroring = train_recon.load, train_recon.mirrored

    def load(path: Path) -> corpus.Sample:
        last.append(path)
        return loading(path)

    def mirrored(kspace, csm, mask, rng):
        steps.append((last[-1].parent.name, int(last[-1].stem), mask[0].numpy() > 0.5))
        return mirroring(kspace, csm, mask, rng)

    monkeypatch.setattr(train_recon, "load", load)
    monkeypatch.setattr(train_recon, "mirrored", mirrored)
    return steps


def test_post_training_uses_exactly_the_masks_of_the_mask_files(config, tmp_path, given, taken):
    train_recon.train(replace(config, masks=str(tmp_path / "masks"), n_steps=20))
    assert len(taken) == 20
    assert {cohort for cohort, _, _ in taken} == {"base", "other"}
    assert len({(cohort, number) for cohort, number, _ in taken}) > 3
    for cohort_name, number, mask in taken:
        assert np.array_equal(mask, given[cohort_name][number])


def test_without_mask_files_a_scan_meets_many_masks(config, taken):
    train_recon.train(replace(config, n_steps=20))
    assert len({(name, number) for name, number, _ in taken}) <= N_SCANS + 2
    assert len({mask.tobytes() for _, _, mask in taken}) > 10


@KINDS
def test_post_training_goes_on_from_its_weights(config, tmp_path, given, kind):
    config = replace(config, kind=kind)
    train_recon.train(config)
    masks = str(tmp_path / "masks")
    none = elsewhere(config, tmp_path, "none", start=config.weights, masks=masks, n_steps=0)
    some = elsewhere(config, tmp_path, "some", start=config.weights, masks=masks)
    train_recon.train(none)
    train_recon.train(some)
    assert equal(none, config)
    assert not equal(some, config)
    before, after = tensors(config), tensors(some)
    assert all((before[name] - after[name]).abs().max() < 0.1 for name in before)


def test_post_training_an_modl_keeps_its_whole_chain(config, tmp_path):
    train_recon.train(config)
    model = train_recon.build(config)
    train_recon.set_unrolls(model, config, 0)
    assert model.n_unrolls == config.n_unrolls_at_first
    train_recon.set_unrolls(model, config, 2)
    assert model.n_unrolls == config.n_unrolls
    further = replace(config, start=config.weights)
    model = train_recon.build(further)
    train_recon.set_unrolls(model, further, 0)
    assert model.n_unrolls == config.n_unrolls
    train_recon.set_unrolls(model, replace(config, n_unrolls=1), 0)
    assert model.n_unrolls == 1, "the first third of a chain of one is not longer"


def test_validation_uses_the_masks_of_its_own_cohort(config, tmp_path, given, monkeypatch):
    config = replace(config, masks=str(tmp_path / "masks"), n_steps=0)
    seen = []
    real = train_recon.zero_filled
    monkeypatch.setattr(
        train_recon,
        "zero_filled",
        lambda kspace, csm, mask: seen.append(mask[0].numpy() > 0.5) or real(kspace, csm, mask),
    )
    train_recon.train(config)
    assert len(seen) == config.n_validation
    assert all(np.array_equal(mask, given["held"][i]) for i, mask in enumerate(seen))


def test_training_masks_are_of_every_kind_and_exact():
    plan = LinePlan.of(np.ones(128, dtype=bool), 4.0)
    rng = np.random.default_rng(0)
    drawn = [train_recon.draw_mask(plan, rng) for _ in range(60)]
    assert all(mask.sum() == plan.n_lines for mask in drawn)
    assert all(np.all(mask[plan.calibration]) for mask in drawn)
    assert len({mask.tobytes() for mask in drawn}) > 40


def test_swapping_moves_as_many_lines_as_asked():
    plan = LinePlan.of(np.ones(128, dtype=bool), 4.0)
    mask = family(plan)[2]
    moved = train_recon.swapped(mask, plan, np.random.default_rng(0), n_swaps=5)
    assert (mask ^ moved).sum() == 10
    assert moved.sum() == mask.sum()
    assert np.all(moved[plan.calibration])


# --- bands


def test_a_band_of_rows_is_reconstructed_as_within_the_whole_scan(anatomy):
    model = MoDL(4, 2, 2, 30)  # an untrained denoiser changes nothing: data consistency alone
    mask = torch.from_numpy(anatomy.plan().calibration).float()[None]
    scan = train_recon.in_noise_units(anatomy, mask)
    kspace, csm = scan.kspace[None], scan.csm[None]
    told = conditions(kspace, csm, mask)
    with torch.no_grad():
        whole = model(kspace, csm, mask, told)
        band = model(kspace[..., 10:30, :], csm[..., 10:30, :], mask, told)
    torch.testing.assert_close(band, whole[:, 10:30], rtol=1e-3, atol=1e-3)


def test_a_band_is_some_rows_of_the_scan_up_to_phase_and_mirror():
    sample = tiny_scans.draw(0)
    starts, mirrored = set(), set()
    for seed in range(40):
        kspace, csm = train_recon.band(sample, 5, np.random.default_rng(seed))
        assert kspace.shape == (1, tiny_scans.N_COILS, 5, tiny_scans.N_ROWS)
        assert csm.shape == kspace.shape
        found = [
            (start, turned)
            for start in range(tiny_scans.N_X - 4)
            for turned in (False, True)
            if torch.allclose(
                kspace[0].abs(),
                sample.kspace[:, start : start + 5].flip([1] if turned else []).abs(),
            )
        ]
        assert len(found) == 1
        starts.add(found[0][0])
        mirrored.add(found[0][1])
    assert starts == set(range(tiny_scans.N_X - 4))
    assert mirrored == {False, True}


def test_a_scan_smaller_than_the_band_is_taken_whole():
    kspace, _ = train_recon.band(tiny_scans.draw(0), 100, np.random.default_rng(0))
    assert kspace.shape[2] == tiny_scans.N_X


# --- augmentation


@pytest.mark.parametrize("n_ky", [24, 25])
def test_a_mirrored_or_conjugated_scan_has_such_an_image(n_ky):
    kspace, csm = (
        torch.complex(*torch.randn(2, 1, 3, 8, n_ky, generator=torch.Generator().manual_seed(i)))
        for i in (0, 1)
    )
    mask = (torch.rand(1, n_ky, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    image = sense.adjoint(kspace, csm, mask)
    over = image.flip(-1).roll(1 - n_ky % 2, -1)
    expected = {"as it is": image, "over": over, "conj": image.conj(), "both": over.conj()}
    seen = set()
    for seed in range(20):
        found = sense.adjoint(*train_recon.mirrored(kspace, csm, mask, np.random.default_rng(seed)))
        (name,) = (n for n, e in expected.items() if torch.allclose(found, e, atol=1e-5))
        seen.add(name)
    assert seen == set(expected)


def test_a_band_with_fewer_coils_has_the_same_image_of_any_lines():
    kspace, csm = train_recon.band(tiny_scans.draw(0), 24, np.random.default_rng(0))
    mask = (torch.arange(kspace.shape[-1]) % 3 == 0).float()[None]
    image = sense.adjoint(kspace, csm, mask)
    few = train_recon.fewer_coils(kspace, csm)
    assert few[0].shape[1] < kspace.shape[1]
    error = (sense.adjoint(*few, mask) - image).norm() / image.norm()
    assert error < 0.02  # of maps with 1e-4 of their energy dropped, 1e-2 of an image


@pytest.mark.parametrize("n_ky", [20, 21])
def test_a_rolled_scan_has_the_rolled_image_of_the_same_lines(n_ky):
    rolled = []
    generator = torch.Generator().manual_seed(0)
    csm = torch.randn(1, 2, 3, n_ky, dtype=torch.complex64, generator=generator)
    kspace = fourier(csm, -1)
    for seed in range(100):
        moved, maps = train_recon.rolled(kspace, csm, np.random.default_rng(seed))
        torch.testing.assert_close(moved.abs(), kspace.abs())
        torch.testing.assert_close(inverse_fourier(moved, -1), maps)
        rolled.append(not torch.equal(maps, csm))
    assert 0.15 < np.mean(rolled) < 0.45


def test_every_second_scan_is_as_it_was_before_whitening():
    sample, noise, changed = tiny_scans.draw(0), [], []
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(sample.kspace.shape, dtype=torch.complex64, generator=generator)
    for seed in range(60):
        found = train_recon.coloured(sample, np.random.default_rng(seed))
        again = train_recon.coloured(replace(sample, kspace=level), np.random.default_rng(seed))
        changed.append(found is not sample)
        covariance = torch.cov(again.kspace.flatten(1))
        deviation = covariance.diagonal().real.sqrt()
        correlation = (covariance / torch.outer(deviation, deviation)).abs()
        noise.append(float(correlation.fill_diagonal_(0).max()))
        if changed[-1]:
            # the same object: maps of unit norm where there were some, the image of all lines
            norm = found.csm.abs().square().sum(0).sqrt()
            torch.testing.assert_close(norm, (sample.csm != 0).any(0).float())
            one = torch.ones(1, sample.kspace.shape[-1])
            image, other = (
                sense.adjoint(s.kspace[None], s.csm[None], one).abs() for s in (sample, found)
            )
            alike = (image * other).sum() / image.norm() / other.norm()
            assert float(alike) > 0.9
    assert 0.3 < np.mean(changed) < 0.7
    assert max(n for n, c in zip(noise, changed, strict=True) if not c) < 0.15  # of so few samples
    assert np.median([n for n, c in zip(noise, changed, strict=True) if c]) > 0.2
