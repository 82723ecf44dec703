"""What a table compares: samplers by their mask files, reconstructors, and the scans of a test.

    {"deployed": "mnet_select",
     "cohorts": [{"name": "test-head-2", "subject": "head-2", "fold": "2"}],
     "rows": [{"sampler": "best_single", "reconstructor": "modl",
               "masks": "masks/best_single", "weights": "weights/modl-{fold}"}]}

Paths are below the folder of the study; `{fold}` becomes the fold of a cohort. Unknown keys and
names are errors.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from training.config import made

Reconstructor = Literal["modl", "unet", "cg_sense", "zero_filled"]
Noise = Literal["measured", "redrawn"]
SAMPLERS = (
    "mnet",
    "mnet_select",
    "mnet_fixed_unet",
    "loupe",
    "suno_nn",
    "best_single",
    "population",
    "shuffled",
    "uniform_random",
    "variable_density",
    "equispaced",
    "low_pass",
    "icd_oracle",
    "mnet_experts",
    "mnet_original",
    "suno_knn",
    "jmodl",
    "greedy",
    "bass",
)
NETWORKS = {"modl": "MoDL", "unet": "UNetReconstructor"}  # their classes in weight cards


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row: whose masks, and who reconstructs from them."""

    sampler: str
    reconstructor: Reconstructor
    masks: str  # folder of <cohort>.npz, below the study
    weights: str = ""  # below the study and without suffix, or the name of packaged weights
    post_trained: bool = False  # whether these weights were trained further on these masks
    noise: Noise = "measured"  # or drawn anew, which masks made on these very scans have not seen
    folds: tuple[str, ...] = ()  # where it is evaluated; everywhere if empty

    def __post_init__(self) -> None:
        _known("sampler", self.sampler, SAMPLERS)
        _known("reconstructor", self.reconstructor, get_args(Reconstructor))
        _known("noise", self.noise, get_args(Noise))
        if (self.reconstructor in NETWORKS) != bool(self.weights):
            needs = "needs" if self.reconstructor in NETWORKS else "has no"
            raise ValueError(f"row {self.sampler}: {self.reconstructor} {needs} weights")

    @property
    def judge(self) -> tuple[str, bool, str]:
        """Rows are compared where this is the same: reconstructor, post-trained or not, noise."""
        return self.reconstructor, self.post_trained, self.noise


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCohort:
    """Scans that are tested together, and the fold whose networks have not seen their subjects."""

    __test__ = False  # the name is no invitation to pytest

    name: str  # folder below scans/
    subject: str = ""  # of all its scans; or empty, where its cohort.json names them
    fold: str
    held_out: bool = True  # False: other slices of a subject that was trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The whole comparison."""

    rows: tuple[Entry, ...]
    cohorts: tuple[TestCohort, ...]
    deployed: str  # the sampler that PredictMask uses by default
    baseline: str = "best_single"  # what paired differences are against
    n_bootstrap: int = 2000
    block: int = 4  # consecutive scans of one acceleration that are drawn together
    seed: int = 0

    def __post_init__(self) -> None:
        for what, name in (("deployed", self.deployed), ("baseline", self.baseline)):
            _known(what, name, {entry.sampler for entry in self.rows})
        twice = _twice([cohort.name for cohort in self.cohorts]) or _twice(
            [(entry.sampler, *entry.judge) for entry in self.rows]
        )
        if twice:
            raise ValueError(f"the table names {twice} twice")
        folds = {cohort.fold for cohort in self.cohorts}
        for entry in self.rows:
            for fold in entry.folds:
                _known(f"fold of row {entry.sampler}", fold, folds)


def read_table(path: Path) -> Table:
    """Read a table's JSON; ValueError naming the file and the key that is wrong."""
    try:
        values = json.loads(path.read_text())
        rows = tuple(made(Entry, f"row {i}", row) for i, row in enumerate(values.pop("rows")))
        cohorts = tuple(
            made(TestCohort, f"cohort {i}", row) for i, row in enumerate(values.pop("cohorts"))
        )
        return made(Table, "table", values | {"rows": rows, "cohorts": cohorts})
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _known(what: str, name: str, names: Any) -> None:
    if name not in names:
        raise ValueError(f"{what} {name!r} is unknown, expected one of {', '.join(sorted(names))}")


def _twice(names: list[Any]) -> Any:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)
