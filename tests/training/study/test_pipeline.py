import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mnet.weight_files import load_weights, read_card, save_weights
from training import pipeline
from training.data.mask_file import read_masks
from training.fit import loop
from training.parallel import TaskError
from training.study import fixed_masks, labelling, networks
from training.study.study import read_study
from training.table.jobs import jobs, read_checked
from training.table.spec import read_table

pytestmark = pytest.mark.slow  # every step of a study, once

SMOKE = Path(__file__).resolve().parents[3] / "training" / "configs" / "smoke.json"


def smoke(folder):
    """The smoke study, in a folder of the test's."""
    (folder / "package").mkdir(parents=True, exist_ok=True)
    return replace(
        read_study(SMOKE),
        folder=folder,
        images=folder / "images",
        package=folder / "package",
        published=folder / "published",
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The study from data to table, uninterrupted."""
    study = smoke(tmp_path_factory.mktemp("smoke"))
    pipeline.run(study)
    return study


@pytest.fixture
def copied(done, tmp_path):
    """The finished study, to be changed."""
    shutil.copytree(done.folder, tmp_path / "copy")
    return smoke(tmp_path / "copy")


def times(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def contents(folder, *patterns):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in patterns
        for path in folder.glob(pattern)
    }


def test_every_row_of_the_table_is_there_with_its_figures(done):
    spec = read_table(done.folder / "table.json")
    found = json.loads((done.folder / "table" / "table.json").read_text())
    wanted = {
        (entry.sampler, entry.reconstructor, entry.post_trained, entry.noise, float(acceleration))
        for entry in spec.rows
        for acceleration in done.accelerations
    }
    rows = {
        (
            row["sampler"],
            row["reconstructor"],
            row["post_trained"],
            row["noise"],
            float(row["acceleration"]),
        )
        for row in found["rows"]
    }
    assert rows == wanted
    assert {entry.sampler for entry in spec.rows} >= {
        *("uniform_random", "variable_density", "equispaced", "low_pass", "population", "loupe"),
        *("best_single", "suno_nn", "mnet", "mnet_fixed_unet", "mnet_select", "shuffled"),
        *("mnet_experts", "icd_oracle"),
    }
    assert found["deployed"] == "mnet_select"


def test_all_masks_of_the_table_keep_budget_calibration_and_window(done):
    spec = read_table(done.folder / "table.json")
    checked = [len(read_checked(job)) for job in jobs(spec, done.folder)]
    assert checked
    assert set(checked) == {4}


def test_page_and_figures_are_there(done):
    folder = done.folder / "table"
    page = (folder / "index.html").read_text()
    assert "mnet_select" in (folder / "table.md").read_text() or "MNet" in page
    for name in ("masks", "reconstructions", "differences"):
        for acceleration in done.accelerations:
            assert (folder / f"{name}-{acceleration:g}.png").stat().st_size > 1000


def test_the_packaged_weights_load_and_say_what_they_were_trained_on(done):
    names = {path.stem for path in done.package.glob("*.safetensors")}
    assert names == {"mnet", "mnet_select", "mnet_experts", "modl"}
    kinds = {}
    for name in names:
        model, card = load_weights(str(done.package / name))
        kinds[name] = type(model).__name__
        files = {entry["file"] for entry in card["data"]}
        assert "a" in files
        assert not files & {"b"}  # the head that the deployed fold is tested on
    assert kinds == {
        "mnet": "MNet",
        "mnet_select": "MNetSelect",
        "mnet_experts": "MNetExperts",
        "modl": "MoDL",
    }


def test_the_packaged_samplers_have_the_guard_of_the_deployed_fold(done):
    made = read_card(str(done.weights("guard@b")))
    for name in ("mnet_select", "mnet_experts"):
        packaged = load_weights(str(done.package / name))[1]["guard"]
        about = packaged.pop("made")
        assert packaged == made["guard"]
        assert about["validation"] == made["validation"]
        assert set(about["validation"]["alarms on ordinary scans"]) == {"c", "test-b"}
        assert about["training"]["cohorts"] == ["base", "d"]
    for name in ("mnet", "modl"):
        assert "guard" not in read_card(str(done.package / name))


def test_a_second_run_leaves_all_that_is_learned_and_chosen_as_it_is(done):
    before = times(done.folder)
    pipeline.run(done)
    after = times(done.folder)
    assert set(after) == set(before)
    changed = {name for name in before if after[name] != before[name]}
    # the page is written again from the scores that are kept, and with it what leaves the folder
    assert {name for name in changed if "scores" in name} == set()
    rewritten = {"table", "table.json", "package", "published"}
    assert {Path(name).parts[0] for name in changed} <= rewritten
    assert pipeline.verify(done)


def test_a_deleted_mask_file_is_made_again_and_nothing_else(copied):
    folder = copied.folder
    removed = folder / "masks" / "low_pass" / "test-b.npz"
    kept = removed.read_bytes()
    removed.unlink()
    before = times(folder)
    pipeline.run(copied, until="post-training")
    after = times(folder)
    assert removed.read_bytes() == kept
    assert {name for name in after if after[name] != before.get(name)} == {
        str(removed.relative_to(folder))
    }


class StoppedError(Exception):
    """The power fails."""


def failing(call, after):
    """Return a function that stops the run at its n-th call."""
    left = [after]

    def wrapped(*arguments, **more):
        left[0] -= 1
        if left[0] < 0:
            raise StoppedError
        return call(*arguments, **more)

    return wrapped


@pytest.mark.slow
def test_a_run_that_is_stopped_within_and_between_steps_ends_as_an_uninterrupted_one(
    done, tmp_path, monkeypatch
):
    study = smoke(tmp_path / "again")
    pipeline.run(study, until="scans")
    stops = [
        # after the first checkpoint of a reconstructor, and before one is written
        (loop, "update_average", 3),
        (loop, "save_checkpoint", 1),
        # within labels, and between steps
        (labelling.labels, "label_block", 2),
        (labelling.labels, "write_masks", 1),
        (fixed_masks, "medoids", 0),
        (loop, "update_average", 13),
        (loop, "update_average", 1),
    ]
    for module, name, after in stops:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, failing(getattr(module, name), after))
            with pytest.raises((StoppedError, TaskError)):
                pipeline.run(study, until="post-training")
    pipeline.run(study, until="post-training")
    for patterns in (
        ("runs/*/log.jsonl",),
        ("weights/*.safetensors",),
        ("masks/*/*.npz",),
        ("vetted.json",),
    ):
        found, expected = contents(study.folder, *patterns), contents(done.folder, *patterns)
        assert expected
        different = {name for name in expected if found.get(name) != expected[name]}
        assert different == set()


def unchanged_after(study, message, until="post-training"):
    before = times(study.folder)
    with pytest.raises(ValueError, match=message):
        pipeline.run(study, until)
    assert times(study.folder) == before


def with_settings(study, step, **values):
    return replace(study, settings=study.settings | {step: study.settings[step] | values})


@pytest.mark.parametrize(
    ("step", "values", "message"),
    [
        ("modl", {"n_steps": 6}, r"weights/modl was made with other settings \(n_steps: 4"),
        ("post", {"learning_rate": 0.1}, r"modl\+.* other settings \(learning_rate"),
        ("icd", {"shortlist": 3}, r"shortlist"),
        ("labels", {"n_rows": 11}, r"n_rows"),
        ("guard", {"alarms": 0.1}, r"guard@b was made with other settings \(alarms: 0.01"),
        ("select", {"n_epochs": 3}, r"mnet_select@b was made with other settings \(n_epochs"),
        (
            "population",
            {"shortlist": 3},
            r"population/3\.npz was made with other settings \(shortlist",
        ),
        ("loupe", {"n_steps": 5}, r"loupe was made with other settings"),
        ("mnet", {"n_stepz": 5}, r"study smoke, mnet: unknown n_stepz"),
    ],
)
def test_what_follows_from_other_settings_is_refused_and_kept(done, step, values, message):
    unchanged_after(with_settings(done, step, **values), message)


def test_scans_of_other_settings_are_refused_and_kept(done):
    cohorts = dict(done.cohorts)
    cohorts["b"] = replace(cohorts["b"], seed=99)
    unchanged_after(replace(done, cohorts=cohorts), "scans/b holds scans of other settings")


def test_a_damaged_scan_is_an_error_that_names_it(copied):
    scan = copied.scans("test-b") / "00001.safetensors"
    scan.write_bytes(scan.read_bytes()[:1000])
    (copied.masks("low_pass") / "test-b.npz").unlink()
    weights = contents(copied.folder, "weights/*")
    with pytest.raises(Exception, match=r"test-b/00001\.safetensors"):
        pipeline.run(copied, until="masks")
    assert contents(copied.folder, "weights/*") == weights


def test_damaged_weights_are_an_error_that_names_them(copied):
    path = copied.weights("modl").with_suffix(".safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    (copied.masks("icd_oracle") / "test-b.npz").unlink()
    shutil.rmtree(copied.labels("oracle"))
    with pytest.raises(Exception, match=r"modl\.safetensors has sha256"):
        pipeline.run(copied, until="oracle")


def altered(weights):
    """Change a tensor of trained weights, as if they were trained anew."""
    model, card = load_weights(str(weights))
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    save_weights(model, weights, {key: card[key] for key in ("training", "started_from")})


def test_masks_and_weights_of_another_sampler_are_refused_and_kept(copied):
    """A sampler that was trained anew leaves nothing behind that speaks for the old one."""
    altered(copied.weights("mnet"))
    unchanged_after(copied, r"masks/mnet.*from")
    for path in copied.folder.glob("masks/mnet*/*.npz"):
        path.unlink()
    with pytest.raises(ValueError, match=r"modl\+mnet.*\.json was trained on masks"):
        pipeline.run(copied, until="post-training")


def test_weights_that_went_on_from_others_than_those_of_now_are_refused(copied):
    altered(copied.weights("modl"))
    with pytest.raises(ValueError, match=r"modl\+uniform_random was made .*\(started_from: '"):
        networks.post_training(copied)


def test_no_file_of_a_study_says_in_which_folder_it_was_made(done):
    told = {path.name: path.read_text() for path in done.folder.rglob("*.json*")}
    for path in done.folder.rglob("*.npz"):
        if path.parent.name not in ("images", "published"):
            told[path.name] = json.dumps(read_masks(path).settings)
    assert len(told) > 50
    assert [name for name, text in told.items() if str(done.folder) in text] == []
