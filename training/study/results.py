"""The table of a study: its rows, and the scans that they are tested on."""

import json
from typing import Any

import torch

from training import evaluate
from training.study.sampler_masks import BY_FOLD, EVERYWHERE, GATED, ONCE, PLAIN
from training.study.study import Study
from training.table.spec import read_table


def table(study: Study) -> None:
    """Write the list of rows, score them and write table, figures and page."""
    spec = study.folder / "table.json"
    spec.write_text(json.dumps(table_content(study), indent=1) + "\n")
    evaluate.evaluate_study(read_table(spec), study.folder, torch.device("cpu"))


def table_content(study: Study) -> dict[str, Any]:
    """Return the rows of the table and the scans they are tested on."""
    once = {"folds": [study.complete]}
    rows: list[dict[str, Any]] = []

    def add(sampler: str, reconstructor: str, weights: str = "", **more: Any) -> None:
        row = {"sampler": sampler, "reconstructor": reconstructor, "masks": f"masks/{sampler}"}
        rows.append(row | ({"weights": weights} if weights else {}) | more)

    for name in (*EVERYWHERE, *BY_FOLD):
        add(name, "modl", "weights/modl")
        own = f"weights/modl+{name}@{{fold}}" if name in BY_FOLD else f"weights/modl+{name}"
        add(name, "modl", own, post_trained=True)
    for name in GATED:
        add(name, "modl", "weights/modl")
    for name in (*ONCE, *PLAIN, "shuffled", "icd_oracle"):
        add(name, "modl", "weights/modl", **once)
    for name in ONCE:
        add(name, "modl", f"weights/modl+{name}", post_trained=True, **once)
    if study.kspace is None:  # the noise of a measurement cannot be drawn anew
        for name in ("icd_oracle", "best_single", "mnet_select"):
            add(name, "modl", "weights/modl", noise="redrawn", **once)
    for name in ("uniform_random", "variable_density", "best_single", "mnet_select"):
        add(name, "unet", "weights/unet", **once)
    add("mnet", "unet", "weights/unet+mnet", post_trained=True, **once)
    add("mnet_fixed_unet", "unet", "weights/unet+icd", post_trained=True, **once)
    add("loupe", "unet", "weights/unet+loupe", post_trained=True, **once)
    for method in ("cg_sense", "zero_filled"):
        for name in ("uniform_random", "best_single", "mnet_select"):
            add(name, method, **once)
    tested = []
    for fold, content in study.folds.items():
        for cohort in content.test:
            tested.append(
                {
                    "name": cohort,
                    "subject": study.subject(cohort),
                    "fold": fold,
                    "held_out": study.held_out(fold, cohort),
                }
            )
    return {"deployed": "mnet_select", "cohorts": tested, "rows": rows}
