"""The tables of the report: every mask on the same data, and the scan as it was received."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mnet.score.comparison import hamming

from .findings import Findings
from .html import number, table, text
from .verdict import name


def samplers(findings: Findings) -> str:
    """Tabulate all masks, by their means and slice by slice."""
    by_key = {(row["sampler"], row["reconstructor"]): row for row in findings.rows}
    modl = {s: row for (s, method), row in by_key.items() if method == "modl"}
    base = modl.get("best_single")
    top = max(row["nrmse"] for row in modl.values())
    best = min(row["nrmse"] for row in modl.values())
    body = []
    for sampler, row in modl.items():
        spread = np.std(row["nrmse_per_seed"], ddof=1) if row["n_seeds"] > 1 else None
        mark = " best" if row["nrmse"] == best else ""
        seeds = "" if spread is None else f" ± {spread:.4f} (sd of {row['n_seeds']} draws)"
        bar = (
            f'<div class="bar{mark}" style="--w:{100 * row["nrmse"] / top:.1f}%">'
            f"<b>{row['nrmse']:.4f}</b><small>{seeds}</small></div>"
        )
        change = (row["nrmse"] / base["nrmse"] - 1) * 100 if base and row is not base else None
        body.append(
            [
                text(name(sampler)),
                bar,
                "&ndash;" if change is None else f"{change:+.1f} %",
                number(row["psnr"], 2),
                number(row["ssim"], 4),
                number(row["nrmse_rss"], 4),
                *(
                    number(by_key[sampler, method]["nrmse"], 4)
                    if (sampler, method) in by_key
                    else "&ndash;"
                    for method in ("cg_sense", "zero_filled")
                ),
            ]
        )
    head = ["Mask", '<div class="left">NRMSE, MoDL</div>', "against best fixed", "PSNR dB",
            "SSIM", "NRMSE to RSS", "NRMSE, CG-SENSE", "NRMSE, zero-filled"]  # fmt: skip
    per_slice = _per_slice(findings, modl)
    return f"<section><h2>Every mask on the same data</h2>{table(head, body)}{per_slice}</section>"


def _per_slice(findings: Findings, modl: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        (text(entry["slice"]), [float(row["per_slice"][i]["nrmse"]) for row in modl.values()])
        for i, entry in enumerate(findings.scan["slices"])
    ]
    lines.append(("mean", [float(row["nrmse"]) for row in modl.values()]))
    body = [
        [label, *(f"<b>{v:.4f}</b>" if v == min(values) else f"{v:.4f}" for v in values)]
        for label, values in lines
    ]
    head = ["Slice", *(text(name(sampler)) for sampler in modl)]
    return f"<h3>NRMSE per slice, MoDL</h3>{table(head, body)}"


def slices(findings: Findings) -> str:
    """Tabulate the scan as it happened."""
    entries = findings.scan["slices"]
    digits = {"nrmse": 4, "nrmse_rss": 4, "psnr": 2, "ssim": 4}
    body = [
        [
            text(entry["slice"]),
            text(entry["n_lines"]),
            number(entry["acceleration"], 2),
            text(f"fallback: {entry['reason']}" if entry["fallback"] else entry["reason"]),
            number(entry["mask_latency_ms"], 1),
            number(entry["recon_ms"], 0),
            *(number(entry[name], n) for name, n in digits.items()),
        ]
        for entry in entries
    ]
    means = [
        number(float(np.mean(values)), n) if len(values) == len(entries) else "&ndash;"
        for name, n in digits.items()
        for values in [[e[name] for e in entries if e[name] is not None]]
    ]
    body.append(["mean", "", "", "", "", "", *means])
    head = ["Slice", "Lines", "R", "Mask", "Latency ms", "Recon ms", "NRMSE", "NRMSE to RSS",
            "PSNR dB", "SSIM"]  # fmt: skip
    return f"<section><h2>As received over the wire</h2>{table(head, body)}</section>"


def distances(findings: Findings) -> str:
    """Tabulate how far the masks of the scan are apart, slice against slice."""
    masks = findings.masks
    if len(masks) < 2:
        return ""
    labels = [text(entry["slice"]) for entry in findings.scan["slices"]]
    counts = (masks[:, None] != masks[None]).sum(axis=2)
    body = [
        [label, *("" if i == j else str(n) for j, n in enumerate(row))]
        for i, (label, row) in enumerate(zip(labels, counts, strict=True))
    ]
    return (
        "<section><h2>Rows in which two slices' masks differ</h2>"
        f"{table(['Slice', *labels], body)}<p>Mean {hamming(masks):.1f}; every line that moved "
        "counts twice. Zero everywhere would be one mask for all slices.</p></section>"
    )
