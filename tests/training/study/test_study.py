import json
from collections import Counter
from pathlib import Path

import pytest

from training.data.corpus import Cohort, part_of
from training.data.sources import sources, sources_of, subjects
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
        *("candidates", "narrow", "experts", "guard"),
    }


OPEN = CONFIGS / "open.json"
FIRST = {"head-1", "head-2", "head-3", "head-4", "head-5", "knee-1"}  # before there were others


def shown(study, cohorts):
    """Whose bodies cohorts show, members of files of several subjects among them."""
    return subjects(study.parts(cohorts))


def test_no_subject_of_the_open_study_is_on_two_sides():
    study = read_study(OPEN)
    (fold,) = study.folds.values()
    learned = shown(study, [*study.base, study.population, *fold.train])
    sides = [learned, shown(study, fold.validation), shown(study, fold.test)]
    assert len(set.union(*sides)) == sum(map(len, sides))
    assert all(study.held_out("all", cohort) for cohort in fold.test)


def test_a_third_of_the_new_subjects_is_tested_on_in_five_anatomies_and_two_other_species():
    study = read_study(OPEN)
    tested = shown(study, study.folds["all"].test)
    new = {source.subject for source in sources() if not source.drawn} - FIRST
    assert len(new) == 58
    assert len(tested & new) >= 58 / 3
    anatomies = {source.anatomy for source in sources() if source.subject in tested}
    assert anatomies == {"head", "heart", "pelvis", "knee", "legs", "mouse", "fruit"}
    for cohort in study.folds["all"].test:
        found = {s.anatomy for part in study.cohorts[cohort].parts for s in sources_of(part)}
        assert {f"test-{anatomy}" for anatomy in found} == {cohort}


def test_every_test_subject_has_as_many_scans_as_the_others_of_its_anatomy():
    study = read_study(OPEN)
    for name in study.folds["all"].test:
        cohort = study.cohorts[name]
        counts = Counter(part_of(cohort, number) for number in range(cohort.n))
        assert set(counts) == set(cohort.parts)
        assert len(set(counts.values())) == 1


def test_no_deployed_weights_have_seen_a_subject_that_the_open_study_tests_on():
    study = read_study(OPEN)
    tested = shown(study, study.folds["all"].test)
    cards = sorted((CONFIGS.parents[1] / "mnet" / "weights").glob("*.json"))
    assert cards
    for card in cards:
        seen = {entry.get("subject") for entry in json.loads(card.read_text()).get("data", [])}
        assert not seen & tested, card.name


def test_the_open_study_takes_known_images_alone_and_no_raw_file():
    study = read_study(OPEN)
    for part in study.parts(tuple(study.cohorts)):
        assert [source.part for source in sources_of(part)], part
        assert not any(source.file.startswith(("brain_t2_4ch", "brain_pd")) for source in sources())


@pytest.mark.parametrize("where", ["base-head", "population", "validation-head"])
@pytest.mark.parametrize("part", ["mouse-pdmr292921", "fruit_kiwi_dcmqa"])  # a part, a file
def test_other_species_are_for_tests_alone(read, where, part):
    values = content("open")
    values["folds"]["all"]["test"] = ["test-head"]
    values["cohorts"][where]["parts"].append(part)
    with pytest.raises(ValueError, match=rf"study open: {part} may be tested on only"):
        read(values)


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
        ("test-head", ["head-1"], "fold all: test shares head-1"),
        ("test-head", ["head-2", "head-xtk"], "fold all: test shares head-xtk"),
        ("test-head", ["lowfield-hku6a"], "fold all: test shares head-hku6a, lowfield-hku6a"),
        ("test-head", ["head_oms04_flair"], "fold all: test shares head-oms04"),  # the file itself
        ("test-heart", ["heart-SC-HF-I-01"], "fold all: test shares heart-SC-HF-I-01"),
        ("test-heart", ["heart_cine_sunnybrook_a"], "fold all: test shares heart-SC-.*-N-"),
        ("validation-head", ["head-4"], "fold all: validation shares head-4"),
        ("test-knee", ["knee-1a"], "fold all: test shares knee-1a"),
        ("population", ["head-2"], "fold all: test shares head-2"),
    ],
)
def test_a_split_that_shares_a_subject_is_an_error_that_names_it(read, cohort, parts, message):
    values = content("open")
    values["cohorts"][cohort]["parts"] = parts
    with pytest.raises(ValueError, match=message):
        read(values)


def test_a_phase_that_is_lent_counts_as_its_subject(read):
    values = content("open")
    values["cohorts"]["base-knee"]["phases"] = ["lowfield-hkus6a"]
    with pytest.raises(ValueError, match="test shares head-hkus6a, lowfield-hkus6a"):
        read(values)


def test_other_slices_of_the_one_knee_may_be_tested(read):
    values = content("open")
    for cohort in ("population", "base-single"):
        values["cohorts"][cohort]["parts"].remove("knee-1b")
    values["cohorts"]["base-knee"]["parts"] = ["knee-1a"]
    values["cohorts"]["test-knee"]["parts"] = ["knee-1b"]
    study = read(values)
    assert not study.held_out("all", "test-knee")
    assert study.held_out("all", "test-head")


def test_a_study_knows_how_many_scans_it_draws_but_not_those_of_unread_files(tmp_path, read):
    assert read(content()).n_scans("base") == content()["cohorts"]["base"]["n"]
    values = content("fastmri_knee") | {"folder": str(tmp_path / "none")}
    with pytest.raises(ValueError, match=r"cohort base is not read yet, .*cohort\.json"):
        read(values).n_scans("base")


def test_cohorts_of_images_are_no_slices():
    assert all(isinstance(c, Cohort) for c in read_study(CONFIGS / "open.json").cohorts.values())
