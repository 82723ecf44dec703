import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from training import pipeline
from training.study.publish import RESULTS, publish, read_manifest
from training.study.study import read_study

ROOT = Path(__file__).resolve().parents[3]
SMOKE = ROOT / "training" / "configs" / "smoke.json"
KEPT = ["weights/modl.safetensors", "labels/icd/base/00000.npz", "runs/modl/log.jsonl"]
SCORES = "table/scores/mnet-modl-test.json"
LEFT = ["weights/modl.json", "scans/base/00000.safetensors", "masks/mnet/b.npz"]
SHOWN = ["table.json", "vetted.json", "population/4.npz", "table/table.md", "table/masks-4.png"]
HIDDEN = ["table/index.html", "table/reconstructions-4.png", "runs/modl/checkpoint.json"]


@pytest.fixture
def study(tmp_path):
    """A study whose files hold their own names."""
    for name in (*KEPT, SCORES, *LEFT, *SHOWN, *HIDDEN):
        path = tmp_path / "study" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (8, 8)).save(path)
        else:
            path.write_text(name)
    return replace(read_study(SMOKE), folder=tmp_path / "study", published=tmp_path / "published")


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_results_are_published_and_of_all_that_takes_hours_the_digest(study):
    publish(study)
    assert files(study.published) == {*SHOWN, "manifest.json"}
    assert sorted(read_manifest(study)) == sorted([*KEPT, SCORES])
    assert (study.published / "table/table.md").read_text() == "table/table.md"


def test_a_study_that_was_carried_over_is_the_one_that_was_published(study, tmp_path, capsys):
    publish(study)
    moved = replace(study, folder=study.folder.rename(tmp_path / "moved"))
    assert pipeline.verify(moved)
    assert capsys.readouterr().out == "0 of 4 files differ\n"


def test_what_differs_from_the_manifest_is_named(study, capsys):
    publish(study)
    (study.folder / KEPT[0]).write_text("other")
    (study.folder / KEPT[1]).unlink()
    (study.folder / "weights/new.safetensors").write_text("new")
    assert not pipeline.verify(study)
    assert capsys.readouterr().out.splitlines() == [
        f"{KEPT[1]}: is missing",
        f"{KEPT[0]}: differs",
        "weights/new.safetensors: is not in the manifest",
        "3 of 4 files differ",
    ]


def test_a_study_that_publishes_nothing_has_no_manifest(study):
    publish(replace(study, published=None))
    assert not study.published.exists()
    with pytest.raises(ValueError, match="study smoke has no manifest"):
        read_manifest(replace(study, published=None))
    with pytest.raises(ValueError, match=r"manifest\.json is missing: run the study"):
        read_manifest(study)


def test_the_open_study_keeps_its_results_in_git():
    study = read_study(SMOKE.with_name("open.json"))
    published = ROOT / study.published
    manifest = read_manifest(replace(study, published=published))
    assert {name.split("/")[0] for name in manifest} == {"weights", "labels", "runs", "table"}
    assert [pattern for pattern in RESULTS if not list(published.glob(pattern))] == []


@pytest.mark.parametrize(
    ("name", "source"), [("mnet", "mnet"), ("mnet_select", "mnet_select@all"), ("modl", "modl")]
)
def test_the_open_study_deploys_what_its_manifest_tells(name, source):
    study = read_study(SMOKE.with_name("open.json"))
    manifest = read_manifest(replace(study, published=ROOT / study.published))
    deployed = (ROOT / study.package / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(deployed).hexdigest() == manifest[f"weights/{source}.safetensors"]
