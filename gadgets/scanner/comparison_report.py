"""What a scan gained: the same data with other masks and reconstructions, and the report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnet.recon.modl import MoDL
from mnet.sampler.choosing import EXPECTED, Choosing
from mnet.score.comparison import Masks, Method, compare, sampler_masks
from mnet.weight_files import load_weights

from ..errors import ConfigError
from ..report.page import Findings, write_report
from ..report.physics import PhysicsFindings
from .scan_result import Result


def write_comparison_report(
    path: Path,
    result: Result,
    title: str,
    *,
    n_seeds: int,
    physics: PhysicsFindings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Reconstruct the scan's data with every sampler's masks, and write the report.

    Returns what goes into the JSON: `rows`, and `physics` where lines were computed.
    """
    sampler, sampler_card = load_weights("mnet_select")
    model, model_card = load_weights("modl")
    if not isinstance(sampler, Choosing) or not isinstance(model, MoDL):
        raise ConfigError(f"expected the weights 'mnet_select' to be {EXPECTED}, and 'modl' a MoDL")
    drawn = sampler_masks(result.volume, sampler, range(n_seeds))
    kept: dict[tuple[str, str], Tensor] = {}
    n_volumes = sum(len(masks) for masks in drawn.values())

    def rows_of(masks: Masks, methods: Sequence[Method], done: int) -> list[dict[str, Any]]:
        def count(n: int, _: int) -> None:
            if progress is not None:
                progress(done + n, n_volumes + 2)

        return compare(
            result.volume, masks, model, methods=methods, csm=result.csm, progress=count, keep=kept
        )

    with torch.inference_mode():
        rows = rows_of(drawn, ["modl"], 0)
        # the other reconstructions on the adaptive masks, which is what they are compared on
        rows += rows_of(
            {"mnet_select": drawn["mnet_select"]}, ["cg_sense", "zero_filled"], n_volumes
        )
    findings = Findings(
        title=title,
        scan=result.json,
        volume=result.volume,
        center=result.center,
        reference=result.reference,
        images=result.images,
        samplers=drawn,
        rows=rows,
        kept=kept,
        physics=physics,
        details={
            "Data": title,
            "Sampler": f"mnet_select, sha256 {sampler_card['sha256'][:16]}",
            "Reconstructor": f"modl, sha256 {model_card['sha256'][:16]}; one for all masks",
            "Random masks": f"mean over {n_seeds} draws per slice",
        },
    )
    write_report(path, findings)
    return {"rows": rows} | ({} if physics is None else {"physics": dict(physics.table)})
