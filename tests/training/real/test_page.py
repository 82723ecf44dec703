import pytest
import torch

from mnet.recon.modl import MoDL
from mnet.sampler.mnet_select import MNetSelect
from mnet.weight_files import save_weights
from tests.gadgets.helpers.html_page import Page, assert_readable_by_all, assert_stands_alone
from tests.training.helpers.fake_fastmri import TINY, kspace, write
from training.real.__main__ import main
from training.real.means import means
from training.real.results import read_found
from training.real.sections import preface, readme_rows, sections, summary


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A folder of two people and a phantom, and a file that lacks a row, played once."""
    folder = tmp_path_factory.mktemp("real")
    for number, name in enumerate(("anna", "bert", "phantom_a")):
        write(folder / f"{name}.h5", TINY, seed=number)
    damaged = kspace(TINY)
    damaged[1, :, :, 20] = 0
    write(folder / "halved.h5", TINY, data=damaged)
    torch.manual_seed(0)
    save_weights(MNetSelect(), folder / "select", {})
    save_weights(MoDL(n_channels=4, n_unrolls=1), folder / "modl", {})
    arguments = [str(folder), "--out", str(folder / "out"), "--slices", "1", "--seeds", "2"]
    arguments += ["--weights", str(folder / "modl"), "--sampler", str(folder / "select")]
    arguments += ["--acceleration", "2", "3", "--parts", "table", "invariances"]
    arguments += ["--methods", "modl", "cg_sense", "zero_filled"]
    return folder / "out", main(arguments)


@pytest.mark.slow
def test_a_file_that_is_not_fully_sampled_is_refused_by_name_and_the_others_are_played(played):
    out, status = played
    found = read_found(out)
    assert status == 1
    (refused,) = found["refused"]
    assert refused["file"] == "halved.h5"
    assert "halved.h5: slice 1" in refused["why"]
    assert "not fully sampled" in preface(found)
    assert [entry["file"] for entry in found["files"]] == ["anna.h5", "bert.h5", "phantom_a.h5"]
    assert "halved.h5" not in {row["file"] for row in found["rows"]}


def test_all_samplers_are_under_modl_and_cg_sense_and_all_methods_under_the_deployed_mask(played):
    rows = read_found(played[0])["rows"]
    of = {(r["method"], r["sampler"]) for r in rows}
    samplers = {s for m, s in of if m == "modl"}
    assert samplers == {s for m, s in of if m == "cg_sense"}
    assert {s for m, s in of if m == "zero_filled"} == {"mnet_select"}
    simple = {"uniform_random", "variable_density", "equispaced", "low_pass"}
    assert samplers == simple | {
        *("mnet_select", "best_single", "family_1_1", "family_oracle", "vetted_oracle")
    }
    assert {r["n_lines"] for r in rows if r["acceleration"] == 2} == {20}
    assert {r["n_draws"] for r in rows if r["sampler"] == "uniform_random"} == {2}


def test_an_oracle_is_never_worse_than_what_it_chooses_from(played):
    rows = read_found(played[0])["rows"]
    by = {(r["file"], r["acceleration"], r["method"], r["sampler"]): r["nrmse"] for r in rows}
    for (file, acceleration, method, sampler), value in by.items():
        if sampler in ("family_1_1", "mnet_select") and method != "zero_filled":
            assert by[file, acceleration, method, "vetted_oracle"] <= value


def test_a_mean_counts_a_subject_once_and_keeps_phantoms_apart():
    rows = [
        {"subject": s, "file": f, "method": "modl", "nrmse": value}
        for s, f, value in (
            *(("a", "a1", 1.0), ("a", "a1", 3.0), ("a", "a2", 4.0)),
            *(("b", "b1", 1.0), ("phantom", "p", 9.0)),
        )
    ]
    people, phantoms = means(rows, ("method",), ("nrmse",))
    assert (people["of"], people["n_subjects"], people["nrmse"]) == ("people", 2, 2.0)
    assert (phantoms["of"], phantoms["n_subjects"], phantoms["nrmse"]) == ("phantoms", 1, 9.0)


def test_the_page_and_the_markdown_say_what_was_found(played):
    out, _ = played
    found = read_found(out)
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    text = (out / "real.md").read_text(encoding="utf-8")
    assert_stands_alone(page)
    assert_readable_by_all(page)
    for section in sections(found):
        for cell in [section.title, section.note, *(c for line in section.rows for c in line)]:
            assert cell in text
            assert cell in page.text
    # three files at two accelerations
    assert len(page.all("img")) == 6
    assert "anna, bert" in page.text
    titles = [section.title for section in sections(found)]
    assert titles[0] == "Real scans, people: methods under the deployed mask, acceleration 2"
    assert titles[-1].startswith("What must not matter")
    assert len(summary(found)) == len(titles) - 3  # without peers, files and invariances


def test_the_readme_has_a_row_for_every_method(played):
    lines = readme_rows(read_found(played[0])).splitlines()
    assert lines[0] == "| real scans, people: 2 | 2x NRMSE / SSIM | 3x NRMSE / SSIM |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        *("| MoDL", "| CG-SENSE", "| zero-filled")
    ]


def test_unknown_methods_and_missing_folders_are_errors(tmp_path, capsys):
    write(tmp_path / "a.h5", TINY)
    assert main([str(tmp_path), "--methods", "magic"]) == 1
    assert "no method magic, there are modl" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere: expected k-space files" in capsys.readouterr().err


def test_the_same_run_writes_the_same(tmp_path):
    write(tmp_path / "a.h5", TINY)
    for name in ("one", "two"):
        arguments = [str(tmp_path / "a.h5"), "--out", str(tmp_path / name), "--slices", "1"]
        arguments += ["--acceleration", "2", "--parts", "table", "--methods", "cg_sense"]
        assert main(arguments) == 0
    for file in ("real.json", "index.html"):
        first, second = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert first == second


def test_a_real_brain_is_played(shared, tmp_path):
    path = shared / "data" / "raw" / "brain_pd_16ch_pulseq.h5"
    arguments = [str(path), "--out", str(tmp_path), "--acceleration", "4", "--parts", "table"]
    assert main([*arguments, "--methods", "cg_sense", "zero_filled"]) == 0
    (cg_sense, zero_filled) = (
        row for row in read_found(tmp_path)["rows"] if row["sampler"] == "mnet_select"
    )
    assert cg_sense["nrmse"] < 0.7 * zero_filled["nrmse"]
    assert cg_sense["ssim"] > zero_filled["ssim"]
