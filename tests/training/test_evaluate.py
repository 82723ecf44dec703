import json
import shutil

import numpy as np
import pytest
import torch

from mnet.masks.densities import low_pass, uniform_random, variable_density
from mnet.recon import linear
from mnet.recon.modl import MoDL
from mnet.sampler.mnet_select import MNetSelect
from mnet.score.image_quality import hfen, nrmse
from mnet.weight_files import save_weights
from tests.gadgets.helpers.html_page import Page, assert_readable_by_all, assert_stands_alone
from tests.training.helpers.fake_fastmri import TINY, write, write_mrd
from tests.training.helpers.generated import cohort, volumes
from training import evaluate
from training.data.corpus import draw, load, save, scan_path
from training.data.mask_file import read_masks, write_masks
from training.evaluate import main
from training.table import scores
from training.table.jobs import check_mask, jobs
from training.table.scores import figures, images, redraw
from training.table.spec import read_table

CPU = torch.device("cpu")
DRAWS = {
    "best_single": lambda plan, i: variable_density(plan, np.random.default_rng(5)),
    "mnet_select": lambda plan, i: variable_density(plan, np.random.default_rng(i)),
    "uniform_random": lambda plan, i: uniform_random(plan, np.random.default_rng(i)),
}


def fill(study):
    """Two cohorts of four scans, masks of three samplers, an untrained MoDL, a training log."""
    anatomy = volumes(size=40)
    for number, name in enumerate(("test-a", "test-b")):
        folder = study / "scans" / name
        folder.mkdir(parents=True)
        described = cohort(
            4, seed=number, accelerations=(2.0, 3.0), paired=True, reference=52, largest=56
        )
        for i in range(4):
            save(draw(anatomy, described, i), scan_path(folder, i))
        plans = {i: load(scan_path(folder, i)).plan() for i in range(4)}
        for sampler, choose in DRAWS.items():
            masks = {i: choose(plan, i) for i, plan in plans.items()}
            write_masks(study / "masks" / sampler / f"{name}.npz", masks, {"cohort": name})
    torch.manual_seed(0)
    (study / "weights").mkdir()
    save_weights(MoDL(n_channels=4, n_unrolls=1), study / "weights" / "modl", {})
    rows = [
        {"sampler": s, "reconstructor": "modl", "masks": f"masks/{s}", "weights": "weights/modl"}
        for s in DRAWS
    ]
    rows += [
        {"sampler": s, "reconstructor": "cg_sense", "masks": f"masks/{s}", "folds": ["a"]}
        for s in ("best_single", "mnet_select")
    ]
    content = {
        "rows": rows,
        "cohorts": [{"name": f"test-{x}", "subject": x, "fold": x} for x in "ab"],
        "deployed": "mnet_select",
        "n_bootstrap": 100,
    }
    (study / "table.json").write_text(json.dumps(content))
    run = study / "runs" / "modl"
    run.mkdir(parents=True)
    entries = [{"step": 10 * i, "loss": 1 / i, "validation": 2 / i} for i in range(1, 4)]
    (run / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A study with its table, made once; tests that change anything take a copy."""
    study = tmp_path_factory.mktemp("study")
    fill(study)
    assert main(["--study", str(study), "--json", str(study / "copy.json")]) == 0
    return study


@pytest.fixture
def study(evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "draw_study", lambda *arguments: [])
    return shutil.copytree(evaluated, tmp_path / "study")


def job_of(study, sampler, name="test-a", reconstructor="modl"):
    (found,) = [
        job
        for job in jobs(read_table(study / "table.json"), study)
        if (job.entry.sampler, job.cohort.name, job.entry.reconstructor)
        == (sampler, name, reconstructor)
    ]
    return found


def test_the_table_has_all_rows_and_figures(evaluated):
    found = json.loads((evaluated / "table" / "table.json").read_text())
    assert json.loads((evaluated / "copy.json").read_text()) == found
    rows = {(r["sampler"], r["reconstructor"], r["acceleration"]): r for r in found["rows"]}
    assert len(rows) == 2 * 5
    for row in rows.values():
        assert {"nrmse", "psnr", "ssim", "hfen", "ci95"} <= set(row)
        assert row["ci95"][0] <= row["nrmse"] <= row["ci95"][1]
    assert rows["mnet_select", "modl", 3.0]["n_subjects"] == 2
    assert rows["mnet_select", "cg_sense", 3.0]["fold"] == "a"
    assert found["deployed"] == "mnet_select"
    assert [s["subject"] for s in found["subjects"]] == ["a", "b"]
    assert found["claims"]
    (gain,) = [
        g
        for g in found["adaptivity"]["gains"]
        if (g["scope"], g["reconstructor"], g["acceleration"]) == ("all", "modl", 3.0)
    ]
    change = gain["nrmse"]["mnet_select"] / gain["nrmse"]["uniform_random"] - 1
    assert gain["gain_over_uniform_random_percent"] == pytest.approx(-100 * change)
    assert gain["share_from_family"] + gain["share_from_adapting"] == pytest.approx(1)


def test_scores_are_those_of_the_reconstruction_from_these_lines(evaluated):
    sample = load(scan_path(evaluated / "scans" / "test-a", 1))
    mask = read_masks(evaluated / "masks" / "mnet_select" / "test-a.npz").masks[1]
    rows = torch.from_numpy(mask)
    kspace = torch.where(rows, sample.kspace, 0)[None]
    csm = sample.csm[None]
    image = linear.cg_sense(kspace, csm, rows[None].float()).abs()
    reference = linear.zero_filled(sample.kspace[None], csm, torch.ones(1, mask.size)).abs()
    image = image * (image * reference).sum() / image.square().sum()
    job = job_of(evaluated, "mnet_select", reconstructor="cg_sense")
    stored = json.loads(job.cache.read_text())["scans"]["1"]
    assert stored["nrmse"] == pytest.approx(float(nrmse(image, reference)), rel=1e-4)
    assert stored["hfen"] == pytest.approx(float(hfen(image, reference)), rel=1e-4)
    assert stored["acceleration"] == 3.0


def test_the_page_stands_alone_and_names_the_number_of_subjects(evaluated):
    page = Page((evaluated / "table" / "index.html").read_text())
    assert_stands_alone(page)
    assert_readable_by_all(page)
    assert "2 test subjects (a, b)" in page.text
    assert "block bootstrap" in page.text
    # masks, reconstructions and differences at two accelerations, and training curves
    assert len(page.all("img")) == page.page.count('src="data:image/png;base64,') == 7
    assert "http:" not in page.page
    assert "https:" not in page.page
    assert "| best single | MoDL |" in (evaluated / "table" / "table.md").read_text()


def test_what_is_scored_is_not_scored_again(study, monkeypatch):
    calls = []
    monkeypatch.setattr(scores, "images", lambda *arguments: calls.append(1) or images(*arguments))
    before = (study / "table" / "table.json").read_text()
    assert main(["--study", str(study)]) == 0
    assert calls == []
    # another mask of one scan: this one alone is scored anew, by its two reconstructors
    path = study / "masks" / "mnet_select" / "test-a.npz"
    masks = read_masks(path).masks
    masks[2] = low_pass(load(scan_path(study / "scans" / "test-a", 2)).plan())
    write_masks(path, masks, {"cohort": "test-a"}, replace=True)
    assert main(["--study", str(study)]) == 0
    assert len(calls) == 2
    assert (study / "table" / "table.json").read_text() != before


def test_a_run_that_is_stopped_keeps_what_it_has(study, monkeypatch):
    job = job_of(study, "uniform_random")
    whole = scores.score_job(job, CPU)
    job.cache.unlink()
    monkeypatch.setattr(scores, "SAVE_EVERY", 0.0)
    calls = []

    def stop(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return images(*arguments)

    monkeypatch.setattr(scores, "images", stop)
    with pytest.raises(KeyboardInterrupt):
        scores.score_job(job, CPU)
    assert len(json.loads(job.cache.read_text())["scans"]) == 2
    monkeypatch.setattr(scores, "images", images)
    assert scores.score_job(job, CPU) == whole


def test_halves_scored_apart_make_the_same_table(study):
    before = json.loads((study / "table" / "table.json").read_text())
    shutil.rmtree(study / "table")
    for part in ("0/2", "1/2"):
        assert main(["--study", str(study), "--part", part]) == 0
        assert not (study / "table" / "table.json").exists()
    assert main(["--study", str(study)]) == 0
    assert json.loads((study / "table" / "table.json").read_text()) == before


def test_other_weights_are_scored_anew(study):
    old = job_of(study, "best_single").cache
    torch.manual_seed(1)
    model = MoDL(n_channels=4, n_unrolls=1, initial_lam=0.5)
    save_weights(model, study / "weights" / "modl", {})
    assert job_of(study, "best_single").cache != old


def refused(study, capsys, *words):
    before = (study / "table" / "table.json").read_text()
    assert main(["--study", str(study)]) == 1
    told = capsys.readouterr().err
    for word in words:
        assert word in told
    assert (study / "table" / "table.json").read_text() == before


def test_a_missing_mask_file_is_named(study, capsys):
    (study / "masks" / "mnet_select" / "test-b.npz").unlink()
    refused(study, capsys, "no masks for mnet_select", "test-b.npz is missing")


def test_a_scan_without_a_mask_is_named(study, capsys):
    path = study / "masks" / "best_single" / "test-a.npz"
    masks = read_masks(path).masks
    del masks[3]
    write_masks(path, masks, {"cohort": "test-a"}, replace=True)
    refused(study, capsys, str(path), "lacks 1 of 4 scans: 3")


def test_masks_of_another_cohort_are_refused(study, capsys):
    folder = study / "masks" / "best_single"
    shutil.copy(folder / "test-a.npz", folder / "test-b.npz")
    refused(study, capsys, "holds masks of cohort 'test-a', expected 'test-b'")


def test_a_damaged_mask_file_is_named(study, capsys):
    path = study / "masks" / "best_single" / "test-a.npz"
    path.write_bytes(path.read_bytes()[:-40])
    refused(study, capsys, str(path), "not a whole mask file")


def test_weights_of_another_network_are_refused(study, capsys):
    save_weights(MNetSelect(), study / "weights" / "modl", {})
    refused(study, capsys, "are a MNetSelect", "asks for MoDL")


def test_a_mask_outside_the_plan_is_refused(study, capsys):
    plan = load(scan_path(study / "scans" / "test-a", 0)).plan()
    mask = low_pass(plan)
    movable = np.flatnonzero(plan.movable & ~mask)
    for change, message in (
        (lambda m: m.__setitem__(movable[0], True), "the budget is"),
        (lambda m: m.__setitem__(np.flatnonzero(plan.calibration)[0], False), "leaves out 1"),
    ):
        wrong = mask.copy()
        change(wrong)
        with pytest.raises(ValueError, match=message):
            check_mask(wrong, plan, "here")
    with pytest.raises(ValueError, match="here: mask of"):
        check_mask(mask[:-1], plan, "here")
    path = study / "masks" / "best_single" / "test-a.npz"
    masks = read_masks(path).masks
    masks[0][:] = mask
    masks[0][movable[0]] = True
    write_masks(path, masks, {"cohort": "test-a"}, replace=True)
    refused(study, capsys, "scan 0", "the budget is")


def test_lines_that_cannot_be_acquired_are_refused():
    acquirable = np.ones(64, dtype=bool)
    acquirable[:4] = False
    plan = scores.Sample(
        kspace=torch.zeros(1, 1, 64),
        clean=torch.zeros(1, 1, 64),
        csm=torch.zeros(1, 1, 64),
        acquirable=acquirable,
        acceleration=4.0,
    ).plan()
    mask = low_pass(plan)
    mask[np.flatnonzero(mask & ~plan.calibration)[0]] = False
    mask[0] = True
    with pytest.raises(ValueError, match="1 lines of the mask cannot be acquired"):
        check_mask(mask, plan, "here")


def test_redrawn_noise_is_as_strong_and_independent(evaluated):
    sample = load(scan_path(evaluated / "scans" / "test-a", 0))
    other = redraw(sample, 0)
    rows = torch.from_numpy(sample.acquirable)
    first, second = ((s.kspace - s.clean)[..., rows] for s in (sample, other))
    assert float(second.norm()) == pytest.approx(float(first.norm()), rel=0.05)
    correlation = (first.conj() * second).sum().abs() / (first.norm() * second.norm())
    assert correlation < 0.05
    assert (other.kspace[..., ~rows] == 0).all()
    assert not torch.equal(other.csm, sample.csm)
    assert torch.equal(redraw(sample, 0).kspace, other.kspace)


def test_noise_of_a_measurement_cannot_be_redrawn(evaluated):
    sample = load(scan_path(evaluated / "scans" / "test-a", 0))
    measured = scores.Sample(
        kspace=sample.kspace,
        clean=sample.kspace,
        csm=sample.csm,
        acquirable=sample.acquirable,
        acceleration=sample.acceleration,
    )
    with pytest.raises(ValueError, match="only simulated noise"):
        redraw(measured, 0)


def test_the_reference_itself_scores_perfectly():
    image = torch.rand(1, 24, 20, generator=torch.Generator().manual_seed(0))
    found = figures(image, image, image)
    assert found["nrmse"] < 1e-6
    assert found["hfen"] < 1e-6
    assert found["paper_ssim"] == pytest.approx(1)
    assert found["fastmri_nmse"] < 1e-10


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_weights(MNetSelect(), folder / "select", {})
    save_weights(MoDL(n_channels=4, n_unrolls=1), folder / "modl", {})
    return ["--sampler", str(folder / "select"), "--reconstructor", str(folder / "modl")]


def test_any_file_is_evaluated_at_any_acceleration(tmp_path, weights, capsys):
    data = write(tmp_path / "a.h5", TINY)
    write_mrd(tmp_path / "b.h5", data[:, :3])  # fewer coils, as MRD
    files = [str(tmp_path / name) for name in ("a.h5", "b.h5")]
    out = tmp_path / "out.json"
    accelerations = ["--acceleration", "2", "--acceleration", "3"]
    arguments = ["--data", *files, *accelerations, "--seeds", "2", "--json", str(out), *weights]
    assert main(arguments) == 0
    found = json.loads(out.read_text())
    rows = {(r["sampler"], r["reconstructor"], r["acceleration"]): r for r in found["rows"]}
    assert {a for _, _, a in rows} == {2.0, 3.0}
    assert {m for _, m, _ in rows} == {"modl", "cg_sense", "zero_filled"}
    samplers = {"mnet_select", "best_single", "shuffled", "uniform_random", "equispaced"}
    assert samplers <= {s for s, _, _ in rows}
    row = rows["mnet_select", "modl", 2.0]
    assert (row["n_subjects"], row["n_scans"]) == (2, 6)
    # 40 of 48 columns can be acquired
    assert row["acceleration_acquirable"] == 2.0
    assert row["acceleration_encoded"] == pytest.approx(2.4)
    # an untrained sampler sends the fixed mask
    assert row["paired"]["mean_percent"] == 0
    assert [f["n_coils"] for f in found["files"]] == [4, 3]
    assert found["deployed"] == "mnet_select"
    assert "best single" in capsys.readouterr().out


def test_a_corrupt_file_is_an_error_and_nothing_is_written(tmp_path, weights, capsys):
    write(tmp_path / "a.h5", TINY)
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out.json"
    assert main(["--data", str(tmp_path / "a.h5"), "--json", str(out), *weights]) == 1
    assert "a.h5" in capsys.readouterr().err
    assert not out.exists()


def test_an_acceleration_that_leaves_no_lines_is_named(tmp_path, weights, capsys):
    write(tmp_path / "a.h5", TINY)
    arguments = ["--data", str(tmp_path / "a.h5"), "--acceleration", "0.5", *weights]
    assert main(arguments) == 1
    assert "acceleration 0.5" in capsys.readouterr().err
