"""Tasks of a study: running them, that of one training, and what refuses other settings."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from mnet.weight_files import read_card
from training.config import PLACES, made, told
from training.fit.card import started_from
from training.parallel import Task, run_all
from training.study.study import Study

# what of a configuration says where and by whom work is done rather than what is learned
FREE = PLACES | {"mask_cohorts", "n_workers", "device", "parts"}


def run_tasks(study: Study, tasks: Sequence[Task], name: str) -> None:
    """Run what is not done, several at once."""
    run_all(tasks, n_workers=study.n_workers, backend=study.backend, name=name)


def trained(trainer: ModuleType, study: Study, step: str, values: Mapping[str, Any]) -> Task:
    """Return the task of a run of a module's `train` with the study's settings for `step`.

    Raises
    ------
    ValueError
        If the weights are there but follow from other settings, or from another start.
    """
    given = {**values, **study.settings.get(step, {})}
    config = made(trainer.Config, f"study {study.name}, {step}", given)
    path = Path(config.weights)
    if path.with_suffix(".json").exists():
        card = read_card(str(path))
        refuse_other(path, card["training"], told(config))
        refuse_other(path, card, {"started_from": started_from(given.get("start", ""))})
    return Task(run=partial(trainer.train, config), output=path.with_suffix(".json"))


def refuse_other(path: Path, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise a ValueError if what is there was made with other settings than it would be now."""
    wanted = json.loads(json.dumps(settings))
    differing = sorted(
        f"{k}: {found.get(k)!r}, now {wanted[k]!r}"
        for k in set(wanted) - FREE
        if found.get(k) != wanted[k]
    )
    if differing:
        raise ValueError(
            f"{path} was made with other settings ({'; '.join(differing)}): delete it or choose "
            "another folder for the study"
        )
