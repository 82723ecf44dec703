import json

import pytest

from training.config import read_config, told
from training.fit.train_recon import Config

NEEDED = {"scans": "a", "cohorts": ["b", "c"], "run": "d", "weights": "e"}


def written(tmp_path, **values):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    return path


def test_a_key_that_the_run_does_not_know_is_an_error_that_names_it(tmp_path):
    path = written(tmp_path, **NEEDED, learning_rat=1)
    with pytest.raises(
        ValueError, match=r"run\.json: unknown learning_rat; known: .*learning_rate"
    ):
        read_config(Config, path)


def test_a_key_that_the_run_needs_is_an_error_that_names_it(tmp_path):
    path = written(tmp_path, **{key: NEEDED[key] for key in NEEDED if key != "weights"})
    with pytest.raises(ValueError, match=r"run\.json: .*weights"):
        read_config(Config, path)


def test_values_replace_defaults_and_lists_become_tuples(tmp_path):
    expected = Config(scans="a", cohorts=("b", "c"), run="d", weights="e", n_steps=5)
    assert read_config(Config, written(tmp_path, **NEEDED, n_steps=5)) == expected


def test_settings_are_kept_with_the_names_of_places_alone():
    config = Config(
        scans="/data/study/scans", cohorts=("a",), run="runs/modl", weights="weights/modl+x@2"
    )
    kept = told(config)
    assert (kept["scans"], kept["run"], kept["weights"]) == ("scans", "modl", "modl+x@2")
    assert (kept["masks"], kept["start"], kept["cohorts"]) == ("", "", ("a",))
