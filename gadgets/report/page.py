"""The report of a scan: one HTML file that stands alone and says first whether it was worth it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnet.score.comparison import hamming

from .figures import images, masks
from .findings import Findings
from .html import STYLE, number, text
from .pictures import heat_css
from .tables import distances, samplers, slices
from .verdict import verdict

__all__ = ["Findings", "write_report"]


def write_report(path: Path, findings: Findings) -> None:
    """Write the report as one HTML file without scripts and without references to other files."""
    ruling = verdict(findings.rows)
    sections = [
        f'<header class="{"good" if ruling.better else "bad"}"><h1>{text(ruling.headline)}</h1>'
        f"<p>{text(ruling.figures)}</p><p>{text(ruling.others)}</p></header>",
        _fallbacks(findings),
        _tiles(findings),
        masks(findings),
        images(findings),
        samplers(findings),
        slices(findings),
        distances(findings),
        _notes(findings),
    ]
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{text(findings.title)}</title><style>{STYLE}"
        f".scale{{background:{heat_css()}}}</style></head>\n<body>"
        + "\n".join(sections)
        + "\n</body></html>\n",
        encoding="utf-8",
    )


def _fallbacks(findings: Findings) -> str:
    entries = findings.scan["slices"]
    reasons = Counter(str(entry.get("reason")) for entry in entries if entry["fallback"])
    if not reasons:
        return ""
    why = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
    return (
        f'<p class="warning">{sum(reasons.values())} of {len(entries)} slices were measured with '
        f"the fallback mask: {text(why)}. Their images as received are not adaptive; the "
        "comparison predicts every adaptive mask afterwards, from the same calibration lines.</p>"
    )


def _tiles(findings: Findings) -> str:
    entries, plan = findings.scan["slices"], findings.volume.plan
    n_lines = sorted({int(entry["n_lines"]) for entry in entries})
    counts = "&ndash;".join(str(n) for n in n_lines[:: max(len(n_lines) - 1, 1)])
    acquirable, encoded = int(plan.acquirable.sum()), plan.acquirable.size
    mean = np.mean([entry["n_lines"] for entry in entries])
    latency = [e["mask_latency_ms"] for e in entries if e["mask_latency_ms"] is not None]
    recon = [e["recon_ms"] for e in entries if e["recon_ms"] is not None]
    distance = hamming(findings.masks)
    tiles = [
        ("Lines per slice", counts, f"of {acquirable} acquirable, {encoded} encoded; "
         f"{int(plan.calibration.sum())} are calibration"),
        ("Acceleration", f"{acquirable / mean:.2f}&times;",
         f"of acquirable lines; {encoded / mean:.2f}&times; of encoded"),
        ("Mask latency", _milliseconds(latency, 50),
         f"median; p99 {_milliseconds(latency, 99)}, {len(latency)} masks"),
        ("Reconstruction", _milliseconds(recon, 50), f"median per slice; {len(recon)} slices"),
        ("Fallbacks", str(sum(bool(e["fallback"]) for e in entries)), f"of {len(entries)} slices"),
        ("Masks differ by", number(distance, 1),
         "rows between two slices (mean Hamming distance)"),
    ]  # fmt: skip
    cells = "".join(f"<div><small>{a}</small><b>{b}</b><span>{c}</span></div>" for a, b, c in tiles)
    return f'<section class="tiles">{cells}</section>'


def _milliseconds(values: Sequence[float], percentile: int) -> str:
    if not values:
        return "&ndash;"
    value = float(np.percentile(values, percentile))
    return f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def _notes(findings: Findings) -> str:
    rows = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in findings.details.items())
    n = findings.volume.n_slices
    return (
        "<section><h2>How this was scored</h2>"
        f"<p>One subject, {n} slice{'s' if n != 1 else ''}: the figures describe this scan and "
        "allow no conclusion about others. The reference is the image of all acquirable lines of "
        "the same data, noise included, combined with coil maps from the calibration lines. "
        "Magnitudes are compared after one least-squares scale for the whole volume; PSNR and "
        "SSIM (7 &times; 7 window) take their range from the volume. All masks have the same "
        "budget and contain the same calibration lines. <em>Another slice's mask</em> is the "
        "adaptive mask of the next slice. Masks are applied to recorded data: on a scanner, "
        "another order of lines also changes the effective echo time of a turbo spin echo, which "
        "is not modelled.</p>"
        f"<dl>{rows}</dl></section>"
    )
