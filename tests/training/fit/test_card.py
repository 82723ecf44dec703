import json
from pathlib import Path

from mnet.recon.modl import MoDL
from mnet.weight_files import save_weights
from tests.training.study.test_study import OPEN
from training.fit.card import provenance
from training.study.study import read_study


def test_a_card_names_every_licence_and_attribution_of_its_parts_once():
    card = provenance(["head-1", "head-oms01", "pelvis-prostatex0000", "head-pysap", "head-1"])
    assert card["licences"] == ["BSD-2-Clause", "CC BY", "CC BY 3.0", "CeCILL-B"]
    lesjak, prostatex, pysap = card["attributions"]
    assert "Lesjak" in lesjak
    assert "PROSTATEx" in prostatex
    assert "pysap-data" in pysap
    files = [row["file"] for row in card["data"]]
    assert files.count("brain_t1_sag_uih_a.npz") == 1
    assert sum(file.startswith("head_oms01") for file in files) == 3


def test_a_card_of_the_open_study_attributes_all_that_ask_for_it_and_holds_no_path():
    study = read_study(OPEN)
    card = provenance(study.parts([*study.base, *study.folds["all"].train]))
    for row in card["data"]:
        assert row["licence"] in card["licences"]
        if row["licence"].startswith(("CC BY", "CeCILL")):
            assert row["attribution"] in card["attributions"]
    assert "Sunnybrook" in " ".join(card["attributions"])
    assert "/home" not in json.dumps(card)
    assert not any(row["file"].startswith("/") for row in card["data"])


def test_a_file_of_one_s_own_is_named_without_its_folder():
    card = provenance(["/data/heads/mine.h5"])
    assert card["data"] == [{"file": "mine.h5", "licence": "unknown here"}]
    assert card["licences"] == card["attributions"] == []


def test_a_card_tells_all_runs_before_it_the_first_one_first(tmp_path):
    runs = [{"n_steps": 5, "batch": 1, "learning_rate": 1e-3}, {"n_steps": 0, "batch": 1}]
    start = ""
    for number, training in enumerate(runs):
        made = provenance([], start)
        start = str(tmp_path / f"weights{number}")
        save_weights(MoDL(4, 2, 1, 2), Path(start), {"training": training, **made})
    before = provenance([], start)["before"]
    assert [run["n_steps"] for run in before] == [5, 0]
    assert before[1]["started_from"] == before[0]["sha256"]
    assert provenance([], "")["before"] == []
