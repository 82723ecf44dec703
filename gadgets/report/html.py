"""Text, numbers, tables and style as HTML; whatever comes from a file is escaped here."""

import html
from collections.abc import Iterable, Sequence


def text(value: object) -> str:
    """Escape anything for HTML; None is a dash."""
    return "&ndash;" if value is None else html.escape(str(value))


def number(value: float | None, digits: int) -> str:
    """Format a number; None is a dash."""
    return "&ndash;" if value is None else f"{float(value):.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Build a table; cells are HTML already, the first of a row is its heading."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5d6878; --rule: #dfe3e8; --blue: #2166ac;
    --red: #c4420b; --grey: #8a93a0; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 28px 24px 60px; background: #fff; color:
    var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans",
    sans-serif; }
header { border-left: 6px solid var(--blue); padding: 4px 0 4px 20px; }
header.bad { border-color: var(--red); }
h1 { margin: 0 0 8px; font-size: 25px; line-height: 1.2; font-weight: 650; letter-spacing: -.01em; }
header p { margin: 4px 0; max-width: 95ch; color: var(--soft); }
h2 { margin: 44px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--rule); font-size:
    19px; font-weight: 650; }
h3 { margin: 24px 0 8px; font-size: 15px; font-weight: 650; }
.warning { margin: 18px 0 0; padding: 10px 16px; border-radius: 6px; background: #fdf0e6; color:
    #7a2d05; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
    margin-top: 26px; }
.tiles div { padding: 12px 14px; border: 1px solid var(--rule); border-radius: 8px; }
.tiles small, .tiles span { display: block; color: var(--soft); font-size: 12.5px; line-height:
    1.35; }
.tiles b { display: block; margin: 2px 0 3px; font-size: 25px; font-weight: 620; line-height:
    1.25; font-variant-numeric: tabular-nums; }
.legend { color: var(--soft); font-size: 13px; }
.legend i { display: inline-block; width: 14px; height: 12px; margin: 0 5px 0 14px;
    vertical-align: -1px; }
.legend i:first-child { margin-left: 0; }
i.cal { background: var(--red); } i.line { background: #333c4a; } i.new { background: #2f8fe0; }
i.no { background: repeating-linear-gradient(135deg, #eceef1 0 2px, #b9bfc8 2px 3px); }
.strips { display: grid; grid-template-columns: max-content 1fr max-content; gap: 5px 14px;
    align-items: center; font-size: 13px; }
.strips > div:nth-child(3n) { color: var(--soft); font-size: 12.5px; }
.mask { display: block; width: 100%; height: 24px; border: 1px solid var(--rule); background:
    #f7f8fa; }
.mask path { fill: none; stroke-width: .86; }
.mask .cal { stroke: var(--red); } .mask .line { stroke: #333c4a; } .mask .new { stroke: #2f8fe0; }
.axis { position: relative; height: 18px; color: var(--soft); font-size: 12px; }
.axis span { position: absolute; transform: translateX(-50%); }
.figures { display: grid; grid-template-columns: repeat(var(--n), 1fr); gap: 8px; }
figure { margin: 0; } figure img { display: block; width: 100%; margin-bottom: 4px; background:
    #000; image-rendering: auto; }
figcaption { min-height: 2.6em; font-size: 12.5px; line-height: 1.3; display: flex; align-items:
    end; padding-bottom: 4px; color: var(--soft); }
figcaption:last-child { min-height: 0; color: var(--ink); }
.key { padding: 34% 8% 0; color: var(--soft); font-size: 12px; } .key p { display: flex;
    justify-content: space-between; margin: 3px 0; }
.scale { height: 12px; border-radius: 2px; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 13.5px; font-variant-numeric:
    tabular-nums; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--rule); text-align: right; }
th:first-child { text-align: left; } thead th { color: var(--soft); font-size: 12.5px;
    font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 500; } tbody tr:last-child > * { border-bottom-color: #b9bfc8; }
td:has(.bar) { width: 32%; }
.left { padding-left: 8px; text-align: left; }
.bar { position: relative; padding: 1px 8px; text-align: left; white-space: nowrap; background:
    linear-gradient(#d9e0e8, #d9e0e8) 0 0 / var(--w) 100% no-repeat; }
.bar.best { background-image: linear-gradient(#b8d5f0, #b8d5f0); } .bar b { font-weight: 600; }
    .bar small { color: var(--soft); }
section > p { max-width: 95ch; } dl { display: grid; grid-template-columns: max-content 1fr; gap:
    3px 18px; font-size: 13px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; } section { break-inside: avoid-page; } }
@media (max-width: 760px) { .figures { grid-template-columns: repeat(2, 1fr); }
    .strips { grid-template-columns: 1fr; } }
"""
