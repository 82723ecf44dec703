from dataclasses import astuple, replace
from pathlib import Path

import pytest

from mnet.masks.family import FAMILY
from training.study.forecast import Costs, forecast, measure, print_forecast
from training.study.study import read_study

CONFIGS = Path(__file__).resolve().parents[3] / "training" / "configs"
COSTS = Costs(scan=1.0, modl_step=2.0, unet_step=3.0, evaluation=0.5, gradient=4.0, image=5.0)


@pytest.fixture
def study(tmp_path):
    study = read_study(CONFIGS / "smoke.json")
    return replace(study, folder=tmp_path, images=tmp_path / "images")


def minutes(study, costs=COSTS):
    return {name: time for name, _, time in forecast(study, costs)}


def changed(study, step, **values):
    return replace(study, settings=study.settings | {step: study.settings.get(step, {}) | values})


def test_steps_take_their_number_times_their_cost(study):
    found = minutes(study)
    assert found["scans"] == pytest.approx((20 + 4 + 8 + 8 + 8 + 4 + 4) * 1.0 / 60)
    assert found["modl"] == pytest.approx(4 * 2.0 / 60)
    assert found["unet"] == pytest.approx(4 * 3.0 / 60)
    assert found["loupe"] == pytest.approx(4 * 3.0 / 60)


@pytest.mark.parametrize("step", ["modl", "unet", "mnet", "loupe", "post"])
def test_twice_the_steps_take_twice_as_long_and_nothing_else_changes(study, step):
    before = minutes(study)
    n_steps = study.settings[step]["n_steps"]
    after = minutes(changed(study, step, n_steps=2 * n_steps))
    assert after.pop(step) == pytest.approx(2 * before.pop(step))
    assert after == before


def test_fewer_icd_scans_and_moves_take_less(study):
    before = minutes(study)["icd"]
    assert minutes(changed(study, "icd", icd_every=4))["icd"] == pytest.approx(before / 2)
    # a scan's two moves take a gradient and two evaluations each, its starts one each
    starts = len(FAMILY) * COSTS.evaluation
    moves = 2 * (COSTS.gradient + 2 * COSTS.evaluation)
    expected = before * (moves / 2 + starts) / (moves + starts)
    assert minutes(changed(study, "icd", max_moves=1))["icd"] == pytest.approx(expected)


def test_a_share_of_the_labels_takes_a_share_of_the_time(study):
    before = minutes(study)
    for step, half in (("icd", 0.5), ("labels", 2 / 3)):  # the narrow ones are a half by themselves
        after = minutes(changed(study, step, share=0.5))
        assert after[step] == pytest.approx(half * before[step])


def test_costs_are_measured_and_the_printed_rows_add_up(study, capsys, monkeypatch):
    costs = measure(study)
    assert all(cost > 0 for cost in astuple(costs))
    assert not (study.folder / "scans").exists()  # nothing of the study is made
    monkeypatch.setattr("training.study.forecast.measure", lambda _: costs)
    print_forecast(replace(study, n_workers=2))
    lines = capsys.readouterr().out.splitlines()
    rows = [float(line.rsplit(" min", 1)[0].split()[-1]) for line in lines[:-1]]
    total = float(lines[-1].split(" min")[0].split()[-1])
    assert total == pytest.approx(sum(rows), abs=0.06 * len(rows))
    assert "2 workers" in lines[-1]
