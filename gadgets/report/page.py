"""The report of a scan: one HTML file that stands alone and says first whether it was worth it."""

from collections import Counter
from pathlib import Path

import numpy as np

from mnet.score.comparison import hamming

from .figures import ERROR_GAIN, axis, columns, strips
from .findings import Findings
from .physics import physics_part
from .pictures import heat_css
from .render import write_html
from .tables import means, samplers
from .verdict import verdict

__all__ = ["Findings", "write_report"]


def write_report(path: Path, findings: Findings) -> None:
    """Write the report as one HTML file without scripts and without references to other files."""
    slices, masks = findings.scan["slices"], findings.masks
    values = {
        "title": findings.title,
        "details": findings.details,
        "verdict": verdict(findings.rows),
        "slices": slices,
        "n_lines": [int(entry["n_lines"]) for entry in slices],
        "plan": findings.volume.plan,
        "fallbacks": Counter(str(entry["reason"]) for entry in slices if entry["fallback"]),
        "folded": [entry["slice"] for entry in slices if entry.get("fov_folded")],
        "latency": [e["mask_latency_ms"] for e in slices if e["mask_latency_ms"] is not None],
        "recon": [e["recon_ms"] for e in slices if e["recon_ms"] is not None],
        "time": _time,
        "distance": hamming(masks),
        "moved": (masks[:, None] != masks[None]).sum(axis=2).tolist(),  # rows, slice by slice
        "strips": strips(findings),
        "axis": axis(findings),
        "columns": columns(findings),
        "error_gain": ERROR_GAIN,
        "heat": heat_css(),
        "samplers": samplers(findings.rows),
        "means": means(slices),
        "physics": None if findings.physics is None else physics_part(findings.physics),
    }
    write_html(path, "scan.html", values)


def _time(values_ms: list[float], percentile: int) -> str | None:
    if not values_ms:
        return None
    value = float(np.percentile(values_ms, percentile))
    return f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"
