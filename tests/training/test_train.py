"""From simulated scans to deployed weights, in seconds and without data."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generated import write_corpus
from safetensors.torch import load_file

from mnet import sense
from mnet.masks import Lines
from mnet.modl import MoDL
from mnet.sampler import FAMILY, MNet, family
from mnet.weights import load_weights
from training import labels, train_mnet, train_modl
from training.corpus import load


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", 10, largest=100)
    write_corpus(folder, "validation", 2, largest=100)
    return folder


@pytest.fixture
def config(scans: Path, tmp_path: Path) -> train_modl.Config:
    return train_modl.Config(
        corpus=str(scans),
        run=str(tmp_path / "run"),
        weights=str(tmp_path / "modl"),
        n_steps=6,
        n_rows=16,
        n_channels=4,
        n_levels=2,
        n_unrolls=2,
        n_unrolls_at_first=1,
        n_cg=3,
        every=3,
        n_validation=2,
        n_threads=1,
    )


def tensors(config: train_modl.Config) -> dict[str, torch.Tensor]:
    return load_file(f"{config.weights}.safetensors")


def test_a_resumed_run_equals_an_uninterrupted_one(config, tmp_path, monkeypatch):
    train_modl.train(config)
    other = replace(config, run=str(tmp_path / "other"), weights=str(tmp_path / "again"))

    class Stopped(Exception):  # noqa: N818
        pass

    def stop_after_first(*arguments: object) -> None:
        saved(*arguments)
        raise Stopped

    saved = train_modl.save_checkpoint
    monkeypatch.setattr(train_modl, "save_checkpoint", stop_after_first)
    with pytest.raises(Stopped):
        train_modl.train(other)
    monkeypatch.setattr(train_modl, "save_checkpoint", saved)
    assert json.loads((tmp_path / "other" / "checkpoint.json").read_text())["step"] == 3
    train_modl.train(other)
    expected, found = tensors(config), tensors(other)
    assert set(expected) == set(found)
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_training_follows_from_its_seed(config, tmp_path):
    train_modl.train(config)
    again = replace(config, run=str(tmp_path / "b"), weights=str(tmp_path / "b_weights"))
    train_modl.train(again)
    other = replace(config, run=str(tmp_path / "c"), weights=str(tmp_path / "c_weights"), seed=1)
    train_modl.train(other)
    first = tensors(config)
    assert all(torch.equal(first[name], value) for name, value in tensors(again).items())
    assert any(not torch.equal(first[name], value) for name, value in tensors(other).items())


def test_modl_learns_to_fill_in_one_scan(scans):
    torch.manual_seed(0)
    sample, rng = load(scans / "train" / "00000.safetensors"), np.random.default_rng(0)
    kspace, csm = train_modl.band(sample, 48, rng)
    lines = sample.lines(6.0)
    mask = torch.from_numpy(family(lines)[0]).float()[None]
    truth = sense.adjoint(kspace, csm, torch.ones_like(mask))
    model = MoDL(8, 2, 2, 4)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = train_modl.nrmse(model(kspace, csm, mask), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_training_without_a_corpus_says_what_to_run(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training\.corpus"):
        train_modl.train(replace(config, corpus=str(tmp_path / "nothing")))


def test_training_masks_are_of_every_kind_and_exact():
    lines = Lines.plan(np.ones(128, dtype=bool), 4.0)
    rng = np.random.default_rng(0)
    drawn = [train_modl.draw_mask(lines, rng) for _ in range(60)]
    assert all(mask.sum() == lines.n_lines for mask in drawn)
    assert all(np.all(mask[lines.calibration]) for mask in drawn)
    assert len({mask.tobytes() for mask in drawn}) > 40


def test_swapping_moves_as_many_lines_as_asked():
    lines = Lines.plan(np.ones(128, dtype=bool), 4.0)
    mask = family(lines)[2]
    moved = train_modl.swapped(mask, lines, np.random.default_rng(0), n_swaps=5)
    assert (mask ^ moved).sum() == 10
    assert moved.sum() == mask.sum()
    assert np.all(moved[lines.calibration])


def test_a_band_of_rows_is_reconstructed_as_within_the_whole_scan(scans):
    sample = load(scans / "train" / "00001.safetensors")
    model = MoDL(4, 2, 2, 30)  # an untrained denoiser changes nothing: data consistency alone
    mask = torch.from_numpy(sample.lines().calibration).float()[None]
    with torch.no_grad():
        whole = model(sample.kspace[None], sample.csm[None], mask)
        band = model(sample.kspace[None, :, 10:30], sample.csm[None, :, 10:30], mask)
    torch.testing.assert_close(band, whole[:, 10:30], rtol=1e-3, atol=1e-3)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    config = train_modl.Config(n_steps=1000)
    rates = [train_modl.learning_rate(config, step) for step in range(1000)]
    assert rates[0] < rates[50] < max(rates) <= config.learning_rate
    assert rates[-1] < 1e-4 * config.learning_rate


def run(module: object, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--config", str(config)])
    module.main()  # type: ignore[attr-defined]


def test_scans_labels_and_both_networks_end_to_end(config, scans, tmp_path, monkeypatch):
    train_modl.train(config)
    found = tmp_path / "labels"
    for split, n in (("train", 10), ("validation", 2)):
        path = tmp_path / f"{split}.json"
        values = {
            "corpus": str(scans),
            "labels": str(found),
            "weights": config.weights,
            "split": split,
            "n_scans": n,
            "n_rows": 16,
            "max_moves": 2,
            "shortlist": 2,
        }
        path.write_text(json.dumps(values))
        run(labels, monkeypatch, path)
    lines = (found / "train-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["scan"] for line in lines] == list(range(10))

    # a second run finds nothing to do
    run(labels, monkeypatch, tmp_path / "train.json")
    assert (found / "train-0.jsonl").read_text().splitlines() == lines

    for line in lines:
        entry = json.loads(line)
        sample = load(scans / "train" / f"{entry['scan']:05d}.safetensors")
        plan = sample.lines()
        assert len(entry["losses"]) == len(FAMILY)
        if "mask" in entry:
            assert len(entry["mask"]) == plan.n_lines
            assert entry["loss"] <= min(entry["losses"]) + 1e-6

    figures = train_mnet.train(
        train_mnet.Config(
            corpus=str(scans),
            labels=str(found),
            modl=config.weights,
            weights=str(tmp_path / "mnet"),
            n_epochs=2,
            batch=4,
            n_rows=16,
            n_least=1,
        )
    )
    model, card = load_weights(str(tmp_path / "mnet"))
    assert isinstance(model, MNet)
    assert float(model.strength) == figures["strength"]
    unused = figures["choice 0, correction 0"]["percent"]  # the population's member of the family
    assert unused == pytest.approx(0, abs=0.5)
    used = f"choice {figures['choice']:g}, correction {figures['strength']:g}"
    assert figures[used]["percent"] <= unused
    assert card["validation"]["n_scans"] == 2
    assert card["n_scans"] == 10
    assert card["reconstructor"] == load_weights(config.weights)[1]["sha256"]
    assert {source["licence"] for source in card["data"]} >= {"MIT", "Apache-2.0"}


def test_running_a_finished_training_again_changes_no_weights(config):
    train_modl.train(config)
    first = tensors(config)
    figures = train_modl.train(config)
    assert all(torch.equal(first[name], value) for name, value in tensors(config).items())
    card = load_weights(config.weights)[1]
    assert card["validation"]["modl"] == figures["modl"]
    assert {entry["split"] for entry in card["data"]} == {"train", "validation", "test"}
    assert card["commit"]
