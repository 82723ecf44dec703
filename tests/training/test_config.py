import json
from pathlib import Path

import pytest

from training import labels, train_mnet, train_modl
from training.config import read_config

CONFIGS = Path(train_modl.__file__).parent / "configs"


def test_a_key_that_the_run_does_not_know_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"n_steps": 5, "learning_rat": 1}))
    with pytest.raises(ValueError, match=r"unknown learning_rat; known: .*learning_rate"):
        read_config(train_modl.Config, path)


def test_values_replace_defaults(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"n_steps": 5}))
    assert read_config(train_modl.Config, path) == train_modl.Config(n_steps=5)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_every_configuration_of_the_project_is_read_by_its_script(path):
    name = path.stem.split("_")[0]
    kinds = {
        "modl": train_modl.Config,
        "mnet": train_mnet.Config,
        "labels": labels.Config,
    }
    read_config(kinds[name], path)
