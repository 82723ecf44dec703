import json
from pathlib import Path

import pytest

from training.data.corpus import Cohort
from training.data.sources import subjects
from training.study.study import Slices, read_study

CONFIGS = Path(__file__).resolve().parents[3] / "training" / "configs"


def content(name="smoke"):
    return json.loads((CONFIGS / f"{name}.json").read_text())


@pytest.fixture
def read(tmp_path):
    def changed(values):
        path = tmp_path / "study.json"
        path.write_text(json.dumps(values))
        return read_study(path)

    return changed


@pytest.mark.parametrize("name", ["smoke", "open", "fastmri_knee"])
def test_every_configuration_is_a_study_of_its_name(name):
    study = read_study(CONFIGS / f"{name}.json")
    assert study.name == name
    assert set(study.settings) <= {
        *("modl", "unet", "unet_icd", "post", "population", "icd", "icd_unet", "vetted", "select"),
        *("labels", "mnet", "mnet_fixed_unet", "loupe", "oracle"),
        *("candidates", "narrow", "experts"),
    }


def test_no_fold_of_the_open_study_has_seen_its_head():
    study = read_study(CONFIGS / "open.json")
    tested = set()
    for fold in study.folds.values():
        used = [*study.base, study.population, *fold.train, *fold.validation]
        seen = {s for c in used for s in subjects(study.cohorts[c].parts)}
        settled = {s for c in fold.validation for s in subjects(study.cohorts[c].parts)}
        learned = {s for c in fold.train for s in subjects(study.cohorts[c].parts)}
        heads = {
            s
            for c in fold.test
            for s in subjects(study.cohorts[c].parts)
            if not s.startswith("knee")
        }
        assert len(heads) == 1
        assert not heads & seen
        assert not settled & learned
        tested |= heads
    assert tested == {"head-2", "head-3", "head-5"}


def test_only_the_other_half_of_the_knee_counts_as_seen():
    study = read_study(CONFIGS / "open.json")
    held_out = {
        (fold, cohort): study.held_out(fold, cohort)
        for fold, entry in study.folds.items()
        for cohort in entry.test
    }
    assert [key for key, value in held_out.items() if not value] == [("head-2", "test-knee")]


def test_the_knee_study_is_the_papers():
    study = read_study(CONFIGS / "fastmri_knee.json")
    assert study.accelerations == (4,)
    shares = [study.split[part] for part in ("train", "validation", "test")]
    ends = [round(150 * sum(shares[: i + 1])) for i in range(3)]
    assert ends == [121, 132, 150]  # 121, 11 and 18 scans
    assert study.settings["modl"]["lam"] == 100
    assert not study.settings["modl"]["learn_lam"]
    assert all(isinstance(cohort, Slices) for cohort in study.cohorts.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(colour=1), "unknown colour"),
        (lambda c: c["cohorts"]["b"].update(slices=3), "cohort b: unknown slices"),
        (lambda c: c["folds"]["b"].update(tset=[]), "fold b: unknown tset"),
        (lambda c: c.pop("population"), "missing.*population"),
        (lambda c: c.pop("cohorts"), "missing.*cohorts"),
        (lambda c: c.pop("folds"), "missing.*folds"),
        (lambda c: c["cohorts"]["b"].pop("seed"), "cohort b: .*missing.*seed"),
        (lambda c: c["folds"]["b"].pop("test"), "fold b: .*missing.*test"),
        (lambda c: c.update(base=["nobody"]), "no cohort nobody"),
        (lambda c: c.update(population="nobody"), "no cohort nobody"),
        (lambda c: c["folds"]["b"].update(test=["nobody"]), "no cohort nobody"),
        (lambda c: c.update(complete="z"), "no fold 'z'"),
        (lambda c: c.update(deployed="z"), "no fold 'z'"),
        (lambda c: c.pop("images"), "either images or kspace"),
        (lambda c: c.update(split={"a": 0.5}), "split .* needs kspace"),
    ],
)
def test_what_is_wrong_with_a_study_is_named(read, change, message):
    values = content()
    change(values)
    with pytest.raises(ValueError, match=message):
        read(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["cohorts"]["test"].update(n=3), "cohort test: unknown n"),
        (lambda c: c["cohorts"]["test"].update(parts=["brain"]), "cohort test: no part brain"),
        (lambda c: c["cohorts"]["test"].update(parts=["train"]), "test shares train"),
        (lambda c: c["cohorts"]["validation"].update(parts=["train"]), "validation shares train"),
        (lambda c: c["cohorts"]["test"].update(parts=["validation"]), "test shares validation"),
        (lambda c: c.update(images="here"), "either images or kspace"),
    ],
)
def test_what_is_wrong_with_a_study_of_files_is_named(read, change, message):
    values = content("fastmri_knee")
    change(values)
    with pytest.raises(ValueError, match=message):
        read(values)


@pytest.mark.parametrize(
    ("cohort", "parts", "message"),
    [
        ("test-head-2", ["head-1"], "fold head-2: test shares head-1"),
        ("test-head-2", ["head-5"], "fold head-2: test shares head-5"),
        ("test-head-2", ["head-2", "head-3"], "fold head-2: test shares head-3"),
        ("head-5", ["head-4"], "fold head-2: validation shares head-4"),
        ("test-knee", ["knee-1a"], "fold head-2: test shares knee-1a"),
        ("base", ["head-2"], "fold head-2: test shares head-2"),
    ],
)
def test_a_split_that_shares_a_subject_is_an_error_that_names_it(read, cohort, parts, message):
    values = content("open")
    values["cohorts"][cohort]["parts"] = parts
    with pytest.raises(ValueError, match=message):
        read(values)


def test_other_slices_of_the_one_knee_may_be_tested(read):
    values = content("open")
    values["cohorts"]["test-head-2"]["parts"] = ["knee-1b"]
    assert read(values).parts(["test-head-2"]) == ("knee-1b",)


def test_a_study_knows_how_many_scans_it_draws_but_not_those_of_unread_files(tmp_path, read):
    assert read(content()).n_scans("base") == content()["cohorts"]["base"]["n"]
    values = content("fastmri_knee") | {"folder": str(tmp_path / "none")}
    with pytest.raises(ValueError, match=r"cohort base is not read yet, .*cohort\.json"):
        read(values).n_scans("base")


def test_cohorts_of_images_are_no_slices():
    assert all(isinstance(c, Cohort) for c in read_study(CONFIGS / "open.json").cohorts.values())
