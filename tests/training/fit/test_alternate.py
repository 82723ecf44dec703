import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mnet.masks.line_plan import LinePlan
from mnet.recon.unet import UNetReconstructor
from mnet.sampler.mnet import MNet, mask_of, top_lines
from mnet.weight_files import load_weights, save_weights
from tests.training.helpers import tiny_scans
from training.config import read_config
from training.data.corpus import load
from training.data.mask_file import read_masks
from training.fit import alternate
from training.fit.alternate import Config
from training.fit.labelled_scans import LabelledScan, read_scans
from training.fit.loop import read_log
from training.fit.schedule import Schedule
from training.fit.train_recon import recon_loss
from training.masks.diversity import Chosen, diversity_figures, population_entropy


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    tiny_scans.write_cohort(folder, "train", 0, 40)
    tiny_scans.write_cohort(folder, "held", 1000, 20)
    return folder


@pytest.fixture
def config(study, tmp_path):
    return Config(
        scans=str(study / "scans"),
        labels=str(study / "labels"),
        cohorts=("train",),
        validation=("held",),
        run=str(tmp_path / "run"),
        weights=str(tmp_path / "weights" / "mnet"),
        reconstructor=str(tmp_path / "weights" / "unet"),
        masks=str(tmp_path / "masks"),
        mask_cohorts=("held",),
        n_reconstructor=2,
        n_sampler=3,
        n_steps=10,
        batch=2,
        n_rows=8,
        recon_warm_up=2,
        sampler_channels=4,
        sampler_embedding=8,
        n_channels=4,
        n_levels=1,
        every=5,
        n_validation=2,
    )


def everything(config, tmp_path):
    return load_file(tmp_path / "weights" / "mnet.safetensors") | {
        f"unet.{k}": v for k, v in load_file(tmp_path / "weights" / "unet.safetensors").items()
    }


def test_mnet_learns_a_rule_that_can_be_learnt(config):
    figures = alternate.train(
        replace(
            config,
            n_reconstructor=0,
            n_steps=120,
            batch=4,
            recon_weight=0.0,
            sampler_rate=3e-3,
            decay=0.95,
            rich=True,
            every=120,
        )
    )
    assert figures["bce_shared"] < 0.5 * figures["entropy_shared"]
    assert figures["hamming"] > 0.5 * figures["hamming_icd"] > 0
    model = load_weights(config.weights)[0]
    right = 0
    for scan in range(20):
        sample = tiny_scans.draw(1000 + scan)
        mask = mask_of(alternate.scan_logits(model, sample, sample.plan()), sample.plan())
        right += np.array_equal(mask, tiny_scans.label(1000 + scan, sample.plan()))
    assert right >= 18


def test_masks_have_the_exact_budget_and_are_those_of_the_weights(config):
    alternate.train(config)
    found = read_masks(alternate.Path(config.masks) / "held.npz")
    model, card = load_weights(config.weights)
    assert found.settings == {"sampler": "MNet", "weights": card["sha256"], "cohort": "held"}
    assert sorted(found.masks) == list(range(20))
    for number, mask in found.masks.items():
        sample = tiny_scans.draw(1000 + number)
        plan = sample.plan()
        assert mask.sum() == plan.n_lines
        assert not np.any(plan.calibration & ~mask)
        assert not np.any(mask & ~plan.acquirable)
        logits = alternate.scan_logits(model, sample, plan)
        np.testing.assert_array_equal(mask, mask_of(logits, plan))


@pytest.mark.parametrize("unit", ["step", "epoch", "batch"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(config, tmp_path, monkeypatch, unit):
    config = replace(config, unit=unit)
    alternate.train(config)
    whole, log = everything(config, tmp_path), read_log(tmp_path / "run")

    again = replace(config, run=str(tmp_path / "again"))
    loss = alternate.sampler_loss
    calls = itertools.count()

    def interrupted(*arguments):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(alternate, "sampler_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        alternate.train(again)
    assert [entry["step"] for entry in read_log(tmp_path / "again")] == [5]
    alternate.train(again)
    assert read_log(tmp_path / "again") == log
    found = everything(config, tmp_path)
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_another_seed_gives_another_result(config, tmp_path):
    alternate.train(config)
    first = everything(config, tmp_path)
    other = replace(config, seed=1, run=str(tmp_path / "other"), masks=str(tmp_path / "m"))
    alternate.train(other)
    second = everything(config, tmp_path)
    assert not all(torch.equal(second[name], value) for name, value in first.items())


def test_both_parties_learn_and_a_fixed_reconstructor_does_not(config, tmp_path):
    alternate.train(config)
    unet = load_weights(config.reconstructor)[0]
    assert unet.unet.out.weight.abs().max() > 0  # zero in an untrained network
    before = (tmp_path / "weights" / "unet.safetensors").read_bytes()
    fixed = replace(
        config,
        fixed=True,
        start=config.reconstructor,
        reconstructor="",
        run=str(tmp_path / "fixed"),
        weights=str(tmp_path / "weights" / "mnet_fixed"),
        masks=str(tmp_path / "fixed_masks"),
    )
    alternate.train(fixed)
    assert (tmp_path / "weights" / "unet.safetensors").read_bytes() == before
    assert {"loss_reconstructor"} & set(read_log(tmp_path / "fixed")[0]) == set()
    started, trained = MNet(4, 8), load_weights(fixed.weights)[0]
    assert started.head.out.weight.abs().max() == 0
    assert trained.head.out.weight.abs().max() > 0


def test_the_gradient_of_a_reconstruction_reaches_the_sampler_alone(config, study):
    scan = read_scans(study / "scans" / "train", study / "labels" / "train")[0]
    torch.manual_seed(0)
    sampler, unet = MNet(4, 8), UNetReconstructor(4, 1).requires_grad_(False)

    def gradient(weight):
        sampler.zero_grad()
        rng = np.random.default_rng(0)
        torch.manual_seed(0)
        alternate.sampler_loss(sampler, unet, scan, config, weight, rng).backward()
        return sampler.head.out.bias.grad.clone()

    assert not torch.equal(gradient(0.0), gradient(1.0))
    unet.requires_grad_(True)
    rng = np.random.default_rng(0)
    sampler.zero_grad()
    alternate.reconstructor_loss(sampler, unet, scan, config, rng).backward()
    assert all(p.grad is None for p in sampler.parameters())
    assert unet.unet.out.weight.grad.abs().max() > 0


def test_the_gradient_of_a_line_does_not_grow_with_readout_or_coils():
    sample = tiny_scans.draw(0)
    plan = sample.plan()
    unet = UNetReconstructor(4, 1)
    gradients = []
    for n_x, n_coils in ((1, 1), (8, 1), (1, 4)):
        kspace = sample.kspace.repeat(n_coils, n_x, 1)[None]
        csm = sample.csm.repeat(n_coils, n_x, 1)[None] / n_coils**0.5
        logits = torch.zeros(1, tiny_scans.N_ROWS, requires_grad=True)
        recon_loss(unet, kspace, csm, top_lines(logits, plan)).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


def schedule_of(unit, **changes):
    return Schedule(n_reconstructor=2, n_sampler=4, unit=unit, batch=3, seed=0, **changes)


def test_turns_are_two_steps_and_four_steps():
    names = [schedule_of("step").party(step)[0] for step in range(12)]
    assert "".join(names) == "rrssssrrssss"


def test_an_epoch_takes_every_scan_once_before_any_twice():
    taken = {"sampler": [], "reconstructor": []}
    unit = schedule_of("epoch")
    for step in range(60):
        rng = np.random.default_rng(step)
        taken[unit.party(step)] += unit.scans(step, 10, rng)
    for numbers in taken.values():
        for first in range(0, len(numbers) - 9, 10):
            assert sorted(numbers[first : first + 10]) == list(range(10))
        assert numbers[:10] != numbers[10:20]


def test_a_batch_stays_for_a_cycle_and_no_longer():
    unit = schedule_of("batch")

    def drawn(step):
        rng = unit.generator(step, np.random.default_rng(step))
        return unit.scans(step, 1000, rng)

    assert len({tuple(drawn(step)) for step in range(6)}) == 1
    assert drawn(6) != drawn(5)


def random_labels(n, rng):
    plan = LinePlan.of(tiny_scans.acquirable(), 2.0)
    rows = np.flatnonzero(plan.movable)
    return plan, np.stack(
        [plan.mask(rng.choice(rows[::2], plan.n_movable, replace=False)) for _ in range(n)]
    )


def test_the_reference_entropy_is_the_lowest_bce_of_a_constant_answer():
    plan, labels = random_labels(9, np.random.default_rng(0))
    logits = torch.zeros(labels.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.2)
    target = torch.from_numpy(labels).double()
    movable = torch.from_numpy(plan.movable)
    for _ in range(600):
        loss = torch.nn.BCEWithLogitsLoss()(logits.expand(9, -1)[:, movable], target[:, movable])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    lowest = float(loss.detach())
    assert population_entropy(labels, plan) == pytest.approx(lowest, abs=2e-3)
    assert population_entropy(labels, plan) <= lowest


def test_a_collapsed_sampler_shows_as_one():
    plan, labels = random_labels(12, np.random.default_rng(2))
    p = np.clip(labels.mean(0), 1e-6, 1 - 1e-6)
    logits = torch.from_numpy(np.log(p / (1 - p)))
    mask = mask_of(logits, plan)
    figures = diversity_figures(
        [Chosen(plan=plan, logits=logits, mask=mask, label=label) for label in labels]
    )
    assert figures["hamming"] == 0 < figures["hamming_icd"]
    assert figures["bce_shared"] == pytest.approx(figures["entropy_shared"], abs=1e-4)
    unlabelled = [Chosen(plan=plan, logits=logits, mask=mask, label=None)]
    assert diversity_figures(unlabelled) == {}


def test_only_icd_masks_are_labels(study):
    scans = read_scans(study / "scans" / "train", study / "labels" / "train")
    assert [scan.label is not None for scan in scans] == [i % 2 == 0 for i in range(40)]
    plan = load(scans[2].path).plan()
    np.testing.assert_array_equal(scans[2].icd_mask(plan), tiny_scans.label(2, plan))
    with pytest.raises(ValueError, match=r"00001\.safetensors has no ICD mask"):
        scans[1].icd_mask(plan)


def test_a_label_of_another_plan_is_refused(study):
    scan = read_scans(study / "scans" / "train", study / "labels" / "train")[0]
    plan = load(scan.path).plan(1.5)
    with pytest.raises(ValueError, match="has 15 of 32 rows, expected 20 of 32"):
        scan.icd_mask(plan)
    moved = LabelledScan(path=scan.path, label=np.roll(scan.label, 9))
    with pytest.raises(ValueError, match="with the calibration"):
        moved.icd_mask(load(scan.path).plan())


def test_a_label_of_a_missing_scan_is_refused(study, tmp_path):
    mask = {77: tiny_scans.acquirable()}
    tiny_scans.write_labels(tmp_path / "labels" / "1.npz", mask, np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match=r"00077\.safetensors, not there"):
        read_scans(study / "scans" / "train", tmp_path / "labels")


def test_labels_by_several_reconstructors_are_refused(config, tmp_path):
    for cohort, by in (("train", "one"), ("held", "two")):
        path = tmp_path / "labels" / cohort / "0.npz"
        tiny_scans.write_labels(path, {0: tiny_scans.acquirable()}, np.ones(1, dtype=bool), by)
    with pytest.raises(ValueError, match="labels of one reconstructor are needed, found"):
        alternate.train(replace(config, labels=str(tmp_path / "labels")))
    path = tmp_path / "labels" / "train" / "1.npz"
    tiny_scans.write_labels(path, {1: tiny_scans.acquirable()}, np.ones(1, dtype=bool), "two")
    with pytest.raises(ValueError, match="made with other settings: reconstructor"):
        read_scans(alternate.Path(config.scans) / "train", path.parent)


def test_a_cohort_without_labels_has_scans_alone(study, tmp_path):
    scans = read_scans(study / "scans" / "held", tmp_path / "none")
    assert len(scans) == 20
    assert all(scan.label is None for scan in scans)


def test_a_config_that_cannot_work_is_refused(config, study, tmp_path):
    with pytest.raises(ValueError, match="needs weights to start from"):
        replace(config, fixed=True)
    with pytest.raises(ValueError, match="bce_over 'some'"):
        replace(config, bce_over="some")
    with pytest.raises(ValueError, match="must say where"):
        replace(config, reconstructor="")
    with pytest.raises(ValueError, match="must say where the masks"):
        replace(config, masks="")
    with pytest.raises(ValueError, match="unknown unit 'day', expected one of step, epoch, batch"):
        schedule_of("day")
    with pytest.raises(ValueError, match="found none"):
        alternate.train(replace(config, labels=str(tmp_path)))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"scans": "s", "lamda": 1}))
    with pytest.raises(ValueError, match="unknown lamda"):
        read_config(Config, path)


def test_all_rows_or_the_movable_ones_enter_the_label_loss(config, study):
    scan = read_scans(study / "scans" / "train", study / "labels" / "train")[0]
    plan = load(scan.path).plan()
    sampler, unet = MNet(4, 8).eval(), UNetReconstructor(4, 1)
    torch.nn.init.normal_(sampler.head.out.weight)
    losses = {}
    for over in ("movable", "all"):
        torch.manual_seed(0)
        changed = replace(config, bce_over=over)
        rng = np.random.default_rng(0)
        loss = alternate.sampler_loss(sampler, unet, scan, changed, 0.0, rng)
        losses[over] = float(loss.detach())
    assert losses["movable"] != losses["all"]
    assert plan.movable.sum() < plan.acquirable.size


def test_the_card_says_what_it_was_trained_on(config):
    figures = alternate.train(config)
    card = load_weights(config.weights)[1]
    assert (card["n_scans"], card["n_icd_masks"]) == (40, 20)
    assert card["labels_by"] == "test"
    assert card["validation"] == figures
    assert set(figures) == {
        *("nrmse", "nrmse_icd", "bce", "bce_shared", "entropy_shared", "hamming", "hamming_icd"),
    }
    assert card["commit"]


def test_a_reconstructor_may_start_from_given_weights(config, tmp_path):
    start = UNetReconstructor(4, 1)
    torch.nn.init.normal_(start.unet.out.weight, std=0.1)
    save_weights(start, tmp_path / "start", {})
    changed = replace(config, start=str(tmp_path / "start"), n_steps=2)
    alternate.train(changed)
    trained = load_weights(config.reconstructor)[0].unet.out.weight
    assert not torch.equal(trained, start.unet.out.weight)
    torch.testing.assert_close(trained, start.unet.out.weight, atol=0.02, rtol=0)
