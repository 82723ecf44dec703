import functools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnet.masks.densities import equispaced, low_pass
from mnet.masks.family import family
from mnet.masks.line_plan import Bool, LinePlan, centre_block
from mnet.physics.coil_maps import coil_maps
from mnet.recon.modl import MoDL
from mnet.sampler.prescan import NAMES
from mnet.weight_files import load_weights, save_weights
from tests.training.helpers.generated import cohort, write_scans
from training.data import corpus
from training.data.corpus import Sample
from training.data.mask_file import read_masks
from training.masks import labels
from training.parallel import TaskError

COHORT = cohort(23, accelerations=(4.0, 6.0, 4.0), largest=90)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    write_scans(folder, COHORT)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "modl"
    save_weights(MoDL(4, 2, 1, 12), path, {})
    return str(path)


@pytest.fixture
def config(scans: Path, weights: str, tmp_path: Path) -> labels.Config:
    return labels.Config(
        scans=str(scans),
        labels=str(tmp_path / "labels"),
        n_scans=4,
        weights=weights,
        n_rows=16,
        shortlist=2,
        max_moves=3,
        icd_every=2,
        backend="inline",
    )


def three(plan: LinePlan) -> tuple[Bool, ...]:
    return equispaced(plan), low_pass(plan), family(plan)[3]


def sample(scans: Path, number: int) -> Sample:
    return corpus.load(corpus.scan_path(scans, number))


def loss_of(config: labels.Config, number: int) -> labels.Loss:
    model, _ = load_weights(config.weights)
    return labels.scan_loss(sample(Path(config.scans), number), model, config.n_rows)


def one(loss: labels.Loss, mask: Bool) -> float:
    with torch.no_grad():
        return float(loss(torch.from_numpy(mask).float()[None])[0])


def test_labels_hold_what_the_masks_lose_on_each_scan(config, scans):
    labels.label_cohort(config, three, low_pass)
    found = labels.read_labels(Path(config.labels))
    assert list(found.masks) == [0, 1, 2, 3]
    assert found.arrays["dictionary_loss"].shape == (4, 3)
    for row, number in enumerate(found.masks):
        loss, plan = loss_of(config, number), sample(scans, number).plan()
        expected = [one(loss, mask) for mask in three(plan)]
        np.testing.assert_allclose(found.arrays["dictionary_loss"][row], expected, rtol=1e-4)
        assert found.arrays["start_loss"][row] == pytest.approx(expected[1], rel=1e-4)
        assert found.arrays["loss"][row] == pytest.approx(one(loss, found.masks[number]), rel=1e-4)


def test_icd_masks_are_of_the_plan_and_never_worse_than_the_start(config, scans):
    labels.label_cohort(config, three, low_pass)
    found = labels.read_labels(Path(config.labels))
    arrays = found.arrays
    assert np.all(arrays["loss"] <= arrays["start_loss"])
    assert np.any(arrays["loss"] < arrays["start_loss"])
    for row, (number, mask) in enumerate(found.masks.items()):
        plan = sample(scans, number).plan()
        assert mask.sum() == plan.n_lines
        assert np.all(mask[plan.calibration])
        if not arrays["has_icd"][row]:
            np.testing.assert_array_equal(mask, low_pass(plan))


def test_every_nth_scan_of_each_acceleration_gets_an_icd_mask(config):
    labels.label_cohort(replace(config, n_scans=6, max_moves=1), three, low_pass)
    arrays = labels.read_labels(Path(config.labels)).arrays
    assert arrays["acceleration"].tolist() == [4, 6, 4, 4, 6, 4]
    assert arrays["has_icd"].tolist() == [True, True, False, True, False, False]
    assert np.array_equal(np.isnan(arrays["redrawn_loss"]), ~arrays["has_icd"])
    assert np.array_equal(np.isnan(arrays["redrawn_start_loss"]), ~arrays["has_icd"])


def test_the_gradient_is_the_slope_of_the_loss_at_the_start(config, scans, tmp_path):
    # the gradient is that of the solution, so the solution must be reached
    save_weights(MoDL(4, 2, 1, 40), tmp_path / "converged", {})
    config = replace(config, weights=str(tmp_path / "converged"))
    labels.label_cohort(replace(config, n_scans=2, icd_every=0), three, low_pass)
    found = labels.read_labels(Path(config.labels))
    for row in range(2):
        scan = sample(scans, row)
        n = scan.acquirable.size
        slope = found.arrays["gradient"][row]
        assert np.all(np.isnan(slope[n:]))
        assert np.all(np.isfinite(slope[:n]))
        loss, start = loss_of(config, row), torch.from_numpy(low_pass(scan.plan())).float()[None]
        for line in np.argsort(slope[:n])[:3]:  # the steepest
            step = torch.zeros(1, n)
            step[0, line] = 0.005
            with torch.no_grad():
                expected = float((loss(start + step) - loss(start - step))[0]) / 0.01
            assert slope[line] == pytest.approx(expected, rel=0.05)


def test_new_noise_has_the_old_level_lies_where_it_can_be_and_is_new(scans):
    scan = sample(scans, 3)
    other = labels.redrawn(scan, np.random.default_rng(0))
    old, new = (s.kspace - s.clean for s in (scan, other))
    assert torch.equal(other.csm, scan.csm)
    assert new[..., ~scan.acquirable].abs().sum() == 0
    old, new = old[..., scan.acquirable], new[..., scan.acquirable]
    assert float(new.abs().std()) == pytest.approx(float(old.abs().std()), rel=0.03)
    correlation = (old.conj() * new).mean().abs() / old.abs().square().mean()
    assert float(correlation) < 0.03


def test_blocks_hold_twenty_consecutive_scans(config):
    found = labels.blocks(replace(config, n_scans=45))
    assert [block.path.name for block in found] == ["00000.npz", "00001.npz", "00002.npz"]
    assert [len(block.scans) for block in found] == [20, 20, 5]
    assert [n for block in found for n in block.scans] == list(range(45))


def test_processes_make_the_same_files_as_this_one(config):
    config = replace(config, n_scans=COHORT.n, max_moves=1, n_rows=8)
    labels.label_cohort(config, three, low_pass)
    apart = replace(config, labels=config.labels + "-apart", backend="processes", n_workers=2)
    labels.label_cohort(apart, three, low_pass)
    a, b = (labels.read_labels(Path(c.labels)) for c in (config, apart))
    assert a.settings == b.settings
    assert list(a.masks) == list(b.masks) == list(range(COHORT.n))
    assert all(np.array_equal(a.masks[scan], b.masks[scan]) for scan in a.masks)
    for name in a.arrays:
        np.testing.assert_allclose(a.arrays[name], b.arrays[name], rtol=1e-4, atol=1e-6)


def test_a_second_run_does_nothing_and_a_larger_cohort_only_the_rest(config, monkeypatch):
    config = replace(config, n_scans=20, icd_every=0, n_rows=8)
    labels.label_cohort(config, three, low_pass)
    made = []
    label_block = labels.label_block
    monkeypatch.setattr(labels, "label_block", lambda *a: made.append(a[-1]) or label_block(*a))
    labels.label_cohort(config, three, low_pass)
    assert not made
    labels.label_cohort(replace(config, n_scans=21), three, low_pass)
    labels.label_cohort(replace(config, n_scans=22), three, low_pass)
    assert [block.scans for block in made] == [(20,), (20, 21)]
    assert len(labels.read_labels(Path(config.labels)).masks) == 22


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_rows": 8}, "n_rows: 16, expected 8"),
        ({"shortlist": 4}, "shortlist: 2, expected 4"),
        ({"max_moves": 4}, "max_moves: 3, expected 4"),
        ({"icd_every": 0}, "icd_every: 2, expected 0"),
        ({"dictionary": family}, "dictionary: "),
        ({"start": labels.usual_start}, "start: "),
    ],
)
def test_labels_from_other_settings_are_refused_and_kept(config, change, named):
    config = replace(config, n_scans=1, max_moves=3)
    labels.label_cohort(config, three, low_pass)
    path = Path(config.labels) / "00000.npz"
    before = path.read_bytes()
    dictionary, start = change.pop("dictionary", three), change.pop("start", low_pass)
    with pytest.raises(ValueError, match="other settings") as error:
        labels.label_cohort(replace(config, **change), dictionary, start)
    assert named in str(error.value)
    assert path.read_bytes() == before


def test_labels_of_another_reconstructor_are_refused(config, tmp_path):
    labels.label_cohort(replace(config, n_scans=1), three, low_pass)
    torch.manual_seed(1)
    save_weights(MoDL(4, 2, 1, 4), tmp_path / "other", {})
    with pytest.raises(ValueError, match="reconstructor"):
        labels.label_cohort(
            replace(config, n_scans=1, weights=str(tmp_path / "other")), three, low_pass
        )


def test_where_it_runs_is_no_setting(config):
    labels.label_cohort(replace(config, n_scans=1), three, low_pass)
    before = labels.read_labels(Path(config.labels)).masks
    labels.label_cohort(
        replace(config, n_scans=1, backend="processes", n_workers=3, batch=2), three, low_pass
    )
    after = labels.read_labels(Path(config.labels)).masks
    assert list(after) == list(before) == [0]
    assert all(map(np.array_equal, before.values(), after.values()))


def test_a_missing_scan_is_named(config):
    with pytest.raises(TaskError, match=r"00023\.safetensors"):
        labels.label_cohort(replace(config, n_scans=24, icd_every=0, n_rows=8), three, low_pass)
    assert list(labels.read_labels(Path(config.labels)).masks) == list(range(20))


def test_any_reconstructor_can_be_judged(scans):
    def zero_filled(kspace, csm, mask):
        return labels.sense.adjoint(kspace, csm, mask)

    scan = sample(scans, 0)
    loss = labels.scan_loss(scan, zero_filled, 16)
    everything = loss(torch.ones(1, scan.acquirable.size))
    nothing = loss(torch.zeros(1, scan.acquirable.size))
    assert float(everything) == pytest.approx(0, abs=1e-6)
    assert float(nothing) == pytest.approx(1, rel=1e-6)


def test_the_command_labels_with_the_family(config, tmp_path, monkeypatch):
    values = {
        key: getattr(config, key)
        for key in ("scans", "labels", "weights", "n_rows", "shortlist", "backend")
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(values | {"n_scans": 2, "max_moves": 1}))
    monkeypatch.setattr(sys, "argv", ["labels", "--config", str(path)])
    labels.main()
    found = read_masks(Path(config.labels) / "00000.npz")
    assert found.arrays["dictionary_loss"].shape == (
        2,
        len(family(sample(Path(config.scans), 0).plan())),
    )


def test_no_labels_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training\.masks\.labels"):
        labels.read_labels(tmp_path)


def test_a_dictionary_is_told_apart_by_its_masks_not_by_its_name():
    assert labels.plan_digest(three) == labels.plan_digest(functools.partial(three))
    assert labels.plan_digest(three) != labels.plan_digest(lambda plan: three(plan)[:2])
    assert labels.plan_digest(three) != labels.plan_digest(lambda plan: three(plan)[::-1])


def test_the_search_begins_at_the_best_of_start_and_dictionary_and_its_cost_is_counted(config):
    labels.label_cohort(replace(config, max_moves=0, icd_every=1), three, low_pass)
    arrays = labels.read_labels(Path(config.labels)).arrays
    best = np.minimum(arrays["dictionary_loss"].min(1), arrays["start_loss"])
    np.testing.assert_allclose(arrays["loss"], best, rtol=1e-4)
    # three masks, of which low_pass is the start too, the start's own value and gradient, and the
    # gradient that orders the lines
    assert set(arrays["n_evaluations"]) == {3 + 1 + 3 + 3}


def test_labels_say_what_the_pre_scan_tells(config, scans):
    labels.label_cohort(replace(config, icd_every=0, n_scans=2), three, low_pass)
    found = labels.read_labels(Path(config.labels)).arrays["prescan"]
    for row in range(2):
        scan = sample(scans, row)
        told = dict(zip(NAMES, found[row].tolist(), strict=True))
        assert told["channels"] == scan.kspace.shape[0]
        assert told["rows"] == scan.acquirable.sum()


def test_narrow_labels_are_of_plans_with_few_calibration_lines_and_maps_of_a_reference(
    config, scans
):
    scan = labels.read_scan(scans, 0, 4)
    usual = sample(scans, 0)
    assert scan.plan().calibration.sum() == 4
    assert scan.plan().n_lines == usual.plan().n_lines
    block = centre_block(usual.acquirable, labels.N_REFERENCE, usual.plan().center)
    noisy = labels.redrawn(usual, np.random.default_rng([0, 4]))
    maps = coil_maps(noisy.kspace[..., torch.from_numpy(block)], usual.acquirable.size)
    torch.testing.assert_close(scan.csm, maps)
    narrow = replace(config, n_scans=2, icd_every=0, n_calibration=4)
    labels.label_cohort(narrow, three, low_pass)
    found = labels.read_labels(Path(config.labels))
    assert found.arrays["prescan"][0, NAMES.index("calibration")] == pytest.approx(
        4 / scan.plan().n_lines
    )
    with pytest.raises(ValueError, match="other settings"):
        labels.label_cohort(replace(narrow, n_calibration=0), three, low_pass)
