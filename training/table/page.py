"""The table as Markdown, and as one HTML page with its figures inside."""

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.table.figures import name

Row = Mapping[str, Any]
HEAD = (
    "Sampler",
    "Reconstructor",
    "NRMSE [95 %]",
    "against {baseline}, % [95 %]",
    "PSNR dB",
    "SSIM",
    "HFEN",
    "NRMSE, paper's scale",
    "SSIM, fastMRI",
    "scans",
    "subjects",
)


def markdown(found: Row) -> str:
    """Return the tables, gains and claims as Markdown."""
    parts = [f"# Samplers and reconstructors\n\n{_preface(found)}"]
    for title, rows in _tables(found):
        head = [cell.format(baseline=name(found["baseline"])) for cell in HEAD]
        lines = [head, ["---"] * len(head), *(_cells(row) for row in rows)]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts.append(f"## {title}\n\n{body}")
    for title, items in (("What adapting is worth", _gains(found)), ("Claims", _claims(found))):
        if items:
            parts.append(f"## {title}\n\n" + "\n".join(f"- {item}" for item in items))
    return "\n\n".join(parts) + "\n"


def write_page(path: Path, found: Row, pictures: Sequence[tuple[Path, str]]) -> None:
    """Write one HTML file without scripts and without references to other files."""
    sections = [f"<h1>Samplers and reconstructors</h1><p>{_text(_preface(found))}</p>"]
    for title, rows in _tables(found):
        sections.append(f"<h2>{_text(title)}</h2>{_table(found, rows)}")
    for title, items in (("What adapting is worth", _gains(found)), ("Claims", _claims(found))):
        if items:
            entries = "".join(f"<li>{_text(item)}</li>" for item in items)
            sections.append(f"<h2>{title}</h2><ul>{entries}</ul>")
    sections.append(_distances(found))
    sections += [_picture(file, caption) for file, caption in pictures]
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Samplers and reconstructors</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(sections)
        + "\n</body></html>\n",
        encoding="utf-8",
    )


def _preface(found: Row) -> str:
    tested = sorted({s["subject"] for s in found["subjects"] if s["held_out"]})
    seen = sorted({s["subject"] for s in found["subjects"] if not s["held_out"]})
    text = (
        f"{len(tested)} test subject{'s' if len(tested) != 1 else ''} ({', '.join(tested)}); "
        f"deployed: {name(found['deployed'])}. Intervals: {found['intervals']}. They describe "
        "these subjects and allow no conclusion about other anatomy. All masks of a scan have the "
        "same number of lines, all acquirable, and hold the same calibration lines."
    )
    if seen:
        text += (
            f" Other slices of {', '.join(seen)}, which was trained on, stand apart and say "
            "nothing of unseen subjects."
        )
    return text


def _tables(found: Row) -> list[tuple[str, list[Row]]]:
    """Return titled groups of rows: all folds, then every cohort by itself."""
    pooled = [row for row in found["rows"] if row["fold"] == "all"]
    tables = _by_acceleration("All folds", pooled) if pooled else []
    for cohort in dict.fromkeys(row["cohorts"][0] for row in found["folds"]):
        rows = [row for row in found["folds"] if row["cohorts"][0] == cohort]
        title = f"{cohort}, fold {rows[0]['fold']}" if rows[0]["fold"] != "all" else cohort
        tables += _by_acceleration(
            title if rows[0]["held_out"] else f"{title}, subject seen in training", rows
        )
    return tables


def _by_acceleration(title: str, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    tables = []
    for acceleration in sorted({row["acceleration"] for row in rows}):
        members = [row for row in rows if row["acceleration"] == acceleration]
        n = max(row["n_subjects"] for row in members)
        actual = sum(row["acceleration_acquirable"] for row in members) / len(members)
        encoded = sum(row["acceleration_encoded"] for row in members) / len(members)
        label = (
            f"{title}: acceleration {acceleration:g} ({actual:.2f} of acquirable, {encoded:.2f} of "
            f"encoded lines), {n} subject{'s' if n != 1 else ''}"
        )
        key: Callable[[Row], Any] = lambda row: (*_judge(row), row["nrmse"])  # noqa: E731
        tables.append((label, sorted(members, key=key)))
    return tables


def _judge(row: Row) -> tuple[bool, str, bool, str]:
    return row["reconstructor"] != "modl", row["reconstructor"], row["post_trained"], row["noise"]


def _cells(row: Row) -> list[str]:
    judge = name(row["reconstructor"])
    judge += ", post-trained" if row["post_trained"] else ""
    judge += ", re-drawn noise" if row["noise"] == "redrawn" else ""
    paired = row["paired"]
    against = "–"  # noqa: RUF001
    if paired is not None:
        against = f"{paired['mean_percent']:+.2f}{_interval(paired['ci95'], '+.2f')}"
    return [
        name(row["sampler"]),
        judge,
        f"{row['nrmse']:.4f}{_interval(row['ci95'], '.4f')}",
        against,
        f"{row['psnr']:.2f}",
        f"{row['ssim']:.4f}",
        f"{row['hfen']:.4f}",
        f"{row['paper_nrmse']:.4f}",
        f"{row['fastmri_ssim']:.4f}",
        str(row["n_scans"]),
        str(row["n_subjects"]),
    ]


def _interval(ends: Sequence[float], form: str) -> str:
    """Write an interval, or nothing where there was nothing to draw from, as of one scan."""
    low, high = ends
    return f" [{low:{form}}, {high:{form}}]" if low < high else ""


def _gains(found: Row) -> list[str]:
    sentences = []
    for gain in found["adaptivity"]["gains"]:
        where = "All folds" if gain["scope"] == "all" else gain["scope"]
        judge = name(gain["reconstructor"]) + (", post-trained" if gain["post_trained"] else "")
        judge += ", re-drawn noise" if gain["noise"] == "redrawn" else ""
        n = gain["n_subjects"]
        sentences.append(
            f"{where}, {judge}, acceleration {gain['acceleration']:g}, {n} "
            f"subject{'s' if n != 1 else ''}: {gain['sentence']}"
        )
    return sentences


def _claims(found: Row) -> list[str]:
    return [
        f"{'met' if claim['met'] else 'NOT met'} ({claim['kind']}): {claim['claim']}, "
        f"{', '.join(claim['subjects'])}, acceleration {claim['acceleration']:g}"
        f"{', post-trained' if claim['post_trained'] else ''}: {claim['value']:.3f}, at most "
        f"{claim['limit']:g} ({claim['unit']})"
        for claim in found["claims"]
    ]


def _distances(found: Row) -> str:
    rows = [
        [
            name(entry["sampler"]),
            f"{entry['acceleration']:g}",
            f"{entry['hamming']:.1f}",
            f"{100 * entry['share']:.0f} %",
            f"{100 * entry['different']:.0f} %",
            str(entry["n_pairs"]),
        ]
        for entry in found["adaptivity"]["distances"]
    ]
    if not rows:
        return ""
    head = [
        "Sampler",
        "R",
        "rows that differ",
        "of the most possible",
        "pairs that differ",
        "pairs",
    ]
    n = len({s["subject"] for s in found["subjects"] if s["held_out"]})
    return (
        "<h2>Do masks differ between scans?</h2>"
        f"{_html_table(head, rows)}<p>Mean Hamming distance between the masks of two scans of "
        f"equal plan, {n} subject{'s' if n != 1 else ''}; a line that moved counts twice. Zero is "
        "one mask for all.</p>"
    )


def _table(found: Row, rows: Sequence[Row]) -> str:
    head = [cell.format(baseline=name(found["baseline"])) for cell in HEAD]
    return _html_table(head, [_cells(row) for row in rows])


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _picture(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{_text(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


STYLE = """
body { margin: 0 auto; max-width: 1180px; padding: 28px 24px 60px; color: #1c2430; background: #fff;
    font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 25px; font-weight: 650; } h2 { margin: 40px 0 12px; padding-bottom: 6px;
    border-bottom: 1px solid #dfe3e8; font-size: 18px; font-weight: 650; }
p, figcaption, li { max-width: 110ch; } figcaption, p { color: #5d6878; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13.5px;
    font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid
    #eef0f3; } thead th { color: #5d6878; font-weight: 600; white-space: normal; vertical-align:
    bottom; } tbody th, thead th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
tbody th { font-weight: 600; }
figure { margin: 32px 0 0; } figure img { max-width: 100%; display: block; }
"""
