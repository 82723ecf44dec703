"""The numbers in the report's tables: every mask on the same data, and the scan as received."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .verdict import name

Row = Mapping[str, Any]


def samplers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give every mask's row under MoDL, and beside it what a reader compares it by.

    `spread` is the standard deviation over draws, `change` is against the best fixed mask in
    percent, `bar` is the length of a bar in percent; what there is not is None.
    """
    nrmse = {(row["sampler"], row["reconstructor"]): row["nrmse"] for row in rows}
    modl = [row for row in rows if row["reconstructor"] == "modl"]
    base, errors = nrmse["best_single", "modl"], [row["nrmse"] for row in modl]
    return [
        {
            **row,
            "name": name(row["sampler"]),
            "spread": np.std(row["nrmse_per_seed"], ddof=1) if row["n_seeds"] > 1 else None,
            "change": 100 * (row["nrmse"] / base - 1) if row["sampler"] != "best_single" else None,
            "bar": 100 * row["nrmse"] / max(errors),
            "best": row["nrmse"] == min(errors),
            "cg_sense": nrmse.get((row["sampler"], "cg_sense")),
            "zero_filled": nrmse.get((row["sampler"], "zero_filled")),
        }
        for row in modl
    ]


def means(slices: Sequence[Row]) -> dict[str, float | None]:
    """Average the scores of the images received; None where a slice has none."""
    values = {key: [e[key] for e in slices] for key in ("nrmse", "nrmse_rss", "psnr", "ssim")}
    return {key: None if None in found else float(np.mean(found)) for key, found in values.items()}
