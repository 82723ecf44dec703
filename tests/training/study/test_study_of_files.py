import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnet.masks.densities import uniform_random
from mnet.masks.line_plan import LinePlan
from tests.training.helpers import fake_fastmri as fake
from training import pipeline
from training.data import cohort_index, fastmri
from training.data.corpus import load, save, scan_path
from training.data.mask_file import read_masks, write_masks
from training.data.volume import read_volume
from training.fit.card import provenance
from training.masks.population import commonest_rows
from training.study import fixed_masks
from training.study.results import table_content
from training.study.sampler_masks import sampler_for
from training.study.scans import cohorts
from training.study.study import Slices, read_study

KNEE = Path(__file__).resolve().parents[3] / "training" / "configs" / "fastmri_knee.json"


def knee(folder, **changes):
    return replace(
        read_study(KNEE), folder=folder / "study", kspace=folder / "files", n_workers=1, **changes
    )


def write_files(folder, n, shape=fake.TINY):
    (folder / "files").mkdir()
    for number in range(n):
        fake.write(folder / "files" / f"file{number}.h5", shape, seed=number, patient=f"p{number}")


def split_of(n_train, n_validation, n_test):
    names = [f"file{number}" for number in range(n_train + n_validation + n_test)]
    return {
        "train": names[:n_train],
        "validation": names[n_train : n_train + n_validation],
        "test": names[n_train + n_validation :],
    }


def slices_of(study, **changes):
    """All slices of every cohort."""
    return {n: replace(c, margins=(0, 0), step=1, **changes) for n, c in study.cohorts.items()}


@pytest.fixture
def study(tmp_path):
    write_files(tmp_path, 4)
    study = knee(tmp_path, split=split_of(2, 1, 1))
    return replace(study, cohorts=slices_of(study, accelerations=(2.0,)), accelerations=(2.0,))


def test_scans_of_files_are_read_by_patient(study):
    cohorts(study)
    assert {name: study.n_scans(name) for name in study.cohorts} == {
        "base": 6,
        "population": 6,
        "validation": 3,
        "test": 3,
    }
    assert set(cohort_index.subjects(study.scans("base"))) == {"p0", "p1"}
    assert set(cohort_index.subjects(study.scans("test"))) == {"p3"}
    assert study.data(["base", "population"]) == ("file0.h5", "file1.h5")
    sample = load(scan_path(study.scans("test"), 0))
    assert sample.kspace.shape == (4, 40, 48)
    assert sample.acquirable.sum() == fake.ACQUIRED[48]


def test_reading_again_changes_nothing(study):
    cohorts(study)
    before = {p: p.stat().st_mtime_ns for p in study.folder.rglob("*")}
    cohorts(study)
    assert {p: p.stat().st_mtime_ns for p in study.folder.rglob("*")} == before


def test_cards_of_a_study_of_files_name_the_files(study):
    cohorts(study)
    card = provenance(study.data(study.base))
    assert [entry["file"] for entry in card["data"]] == ["file0.h5", "file1.h5"]
    assert "measured" in card["simulation"]


def test_the_table_of_a_study_of_files_takes_subjects_from_its_cohorts(study):
    tested = table_content(study)["cohorts"]
    assert tested == [{"name": "test", "subject": "", "fold": "paper", "held_out": True}]


def test_the_noise_of_measured_scans_is_not_redrawn(study):
    assert not [row for row in table_content(study)["rows"] if row.get("noise") == "redrawn"]


def test_a_study_of_files_compares_masks_on_its_commonest_plan(study):
    cohorts(study)
    rows = fixed_masks.reference_rows(study)
    np.testing.assert_array_equal(rows, fake.window(48))


def test_the_commonest_plan_counts_and_of_equals_is_the_smallest(tmp_path):
    fake.write(tmp_path / "a.h5")
    sample = next(fastmri.samples(read_volume(tmp_path / "a.h5"), 2.0, [0]))
    narrow = sample.acquirable.copy()
    narrow[:8] = False
    for number, rows in enumerate((narrow, sample.acquirable, narrow)):
        save(replace(sample, acquirable=rows), scan_path(tmp_path, number))
    np.testing.assert_array_equal(commonest_rows(tmp_path), narrow)
    scan_path(tmp_path, 2).unlink()
    assert commonest_rows(tmp_path).size == 48
    with pytest.raises(FileNotFoundError, match="no scans in"):
        commonest_rows(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s.kspace / "file3.h5").unlink(), "part 'test': no file 'file3'"),
        (lambda s: [p.unlink() for p in s.kspace.iterdir()], r"no k-space files \*\.h5 in"),
        (lambda s: (s.kspace / "file1.h5").write_bytes(b"\x89HDF cut"), r"file1\.h5"),
        (lambda s: fake.write(s.kspace / "file1.h5", xml=None), r"file1\.h5: .*ismrmrd_header"),
        (lambda s: fake.write(s.kspace / "file3.h5", patient="p0"), "share the subject 'p0'"),
    ],
)
def test_files_that_do_not_fit_are_named_before_any_scan_is_written(study, change, message):
    change(study)
    with pytest.raises(ValueError, match=message):
        cohorts(study)
    assert not list(study.folder.rglob("*.safetensors"))


def test_a_cohort_of_other_slices_is_refused_and_kept(study):
    cohorts(study)
    before = {p: p.stat().st_mtime_ns for p in study.folder.rglob("*")}
    fewer = dict(study.cohorts) | {"test": Slices(parts=("test",), margins=(1, 0))}
    with pytest.raises(ValueError, match="scans/test holds a cohort of other settings"):
        cohorts(replace(study, cohorts=fewer))
    assert {p: p.stat().st_mtime_ns for p in study.folder.rglob("*")} == before


BARE = ("vetted", "experts", "guard")  # steps that reconstruct nothing
SMALL = {
    "modl": {"n_steps": 2, "every": 2, "n_channels": 4, "n_levels": 2, "n_validation": 1},
    "unet": {"n_steps": 2, "every": 2, "n_channels": 4, "n_levels": 2, "n_validation": 1},
    "unet_icd": {"n_steps": 2},
    "post": {"n_steps": 2},
    "population": {"n_scans": 2, "n_screen": 1, "shortlist": 1, "n_passes": 1, "n_perturbed": 0},
    "icd": {"icd_every": 4, "shortlist": 1, "max_moves": 2, "device": "cpu"},
    "icd_unet": {"icd_every": 4, "shortlist": 1, "max_moves": 2, "device": "cpu"},
    "candidates": {"share": 1.0, "device": "cpu"},
    "labels": {"device": "cpu"},
    "vetted": {"n_medoids": 1},
    "experts": {"min_leaf": 1, "n_least": 1},
    "guard": {"n_least": 1},
    "select": {"n_epochs": 1, "n_members": 1, "n_channels": 4, "n_embedding": 8, "swaps": [0]},
    "mnet": {
        "n_reconstructor": 1,
        "n_sampler": 1,
        "n_steps": 4,
        "batch": 1,
        "sampler_channels": 4,
        "sampler_embedding": 8,
    },
    "mnet_fixed_unet": {"n_steps": 2, "batch": 1, "sampler_channels": 4, "sampler_embedding": 8},
    "loupe": {"n_steps": 2, "batch": 1, "n_validation": 1, "n_draws": 1},
    "oracle": {"shortlist": 1, "max_moves": 2, "device": "cpu"},
}


@pytest.mark.slow
def test_the_knee_study_runs_on_files_of_its_shapes(tmp_path):
    """Steps and networks are small, data and all else as configured: 15 coils, 640 x 368."""
    write_files(tmp_path, 6, fake.KNEE)
    study = knee(tmp_path, split=split_of(4, 1, 1))
    settings = {
        step: dict(values) | SMALL[step] | ({} if step in BARE else {"n_rows": 8})
        for step, values in (study.settings | {step: {} for step in BARE}).items()
    }
    study = replace(study, settings=settings, cohorts=slices_of(study))
    pipeline.run(study)
    table = json.loads((study.folder / "table" / "table.json").read_text())
    assert {row["sampler"] for row in table["rows"]} >= {"mnet_select", "best_single", "loupe"}
    assert {entry["subject"] for entry in table["subjects"]} == {"p5"}
    plan = LinePlan.of(fake.window(368), 4.0)
    assert (plan.n_lines, int(plan.calibration.sum())) == (80, 26)
    for name in ("mnet", "mnet_select", "population", "loupe"):
        for mask in read_masks(study.masks(name) / "test.npz").masks.values():
            assert mask.sum() == plan.n_lines
            assert not (mask & ~plan.acquirable).any()


def test_the_neighbour_of_a_padded_scan_may_be_padded_but_never_itself(tmp_path):
    study = knee(tmp_path)
    cohort = study.scans("base")
    cohort.mkdir(parents=True)
    fake.write(tmp_path / "a.h5")
    drawn = fastmri.samples(read_volume(tmp_path / "a.h5"), 2.0)
    rng = np.random.default_rng(0)
    masks = {}
    for number, sample in enumerate(drawn):
        save(sample, scan_path(cohort, number))
        masks[number] = uniform_random(sample.plan(), rng)
        assert not sample.kspace[..., 0].any()  # padding
    folder = study.labels("icd") / "base"
    write_masks(folder / "0.npz", masks, {}, tiny_arrays(len(masks)))
    sampler = sampler_for(study, "suno_nn", "paper")
    for number in masks:
        found = sampler(load(scan_path(cohort, number)), rng)
        others = [n for n in masks if n != number]
        assert any(np.array_equal(found, masks[n]) for n in others)
        assert not np.array_equal(found, masks[number])


def tiny_arrays(n):
    return {"has_icd": np.ones(n, bool), "gradient": np.zeros((n, 48), np.float32)}
