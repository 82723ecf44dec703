"""Every claim of speed beside its peer, in one run: `make bench`.

    .venv/bin/python -m tests.benchmarks.bench [--only espirit scan] [--threads 2] [--out .]

writes bench.json, bench.md (the table for the README) and bench.svg (cost against size).

A benchmark is a file `bench_NAME.py` in this folder; there is no list to add it to. It has

    def measure() -> Iterator[Figure | Curve]:
        seconds = by_turns({"ours": lambda: ..., "peer": lambda: ...}, repeats=5)
        yield Figure(
            figure="ESPIRiT maps, 15 coils, 320 x 368",
            ours=median(seconds["ours"]), peer=median(seconds["peer"]), unit="s",
            peer_name="bart 0.8.00 ecalib, file I/O counted",
            min_ratio=8,
            check=Check(what="distance of the maps", value=2e-3, at_most=1e-2),
        )

and yields a figure as soon as it is known. Each module runs in a process of its own, after the
one before it, with OMP_NUM_THREADS set and with what time is left as its limit. What it yielded
before it failed or ran out of time is kept, and its failure is part of the table.
"""

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from gadgets.worker.memory import keep_memory

FOLDER = Path(__file__).parent
Record = dict[str, Any]

__all__ = ["Check", "Curve", "Figure", "by_turns", "median"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How far the results of both sides are from each other, and how far they may be."""

    what: str
    value: float
    at_most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table. Without a target it is told and neither met nor missed."""

    figure: str
    ours: float  # a median, or what `figure` says
    unit: str  # of ours and peer: "s", "ms", "1/s", "dB"
    peer: float | None = None
    peer_name: str = ""  # program, version, settings, what is counted
    more_is_better: bool = False  # of ours and peer; the ratio is the other way round then
    min_ratio: float | None = None  # times better than the peer
    at_most: float | None = None  # target for ours
    at_least: float | None = None
    check: Check | None = None
    threads: int = 0  # 0: those of the run
    note: str = ""

    def record(self) -> Record:
        """Return what bench.json holds."""
        ratio = None
        if self.peer is not None:
            ratio = self.ours / self.peer if self.more_is_better else self.peer / self.ours
        wanted = [
            (self.min_ratio, "ratio >= ", ratio is not None and ratio >= (self.min_ratio or 0)),
            (self.at_most, "<= ", self.ours <= (self.at_most or 0)),
            (self.at_least, ">= ", self.ours >= (self.at_least or 0)),
        ]
        wanted = [want for want in wanted if want[0] is not None]
        agree = self.check is None or self.check.value <= self.check.at_most
        return asdict(self) | {
            "threads": self.threads or int(os.environ.get("OMP_NUM_THREADS", 0)),
            "ratio": ratio,
            "target": ", ".join(f"{sign}{value:g}" for value, sign, _ in wanted),
            "met": (all(met for *_, met in wanted) and agree) if wanted else None,
            "agree": agree,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line of the plot: cost against size. Curves of one `panel` are drawn together."""

    panel: str  # "ESPIRiT, coils"
    name: str
    sizes: tuple[float, ...]
    costs: tuple[float, ...]
    size_name: str
    unit: str = "s"

    def record(self) -> Record:
        """Return what bench.json holds."""
        return asdict(self)


def by_turns(
    sides: Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1
) -> dict[str, list[float]]:
    """Time every side in turn, so that a neighbour's load hits all alike: seconds of each."""
    for _ in range(warmup):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def run_module(name: str, lines: Path) -> None:
    """Run one benchmark here, adding a line of JSON to a file for whatever it yields.

    Memory is kept as by our commands; peers that run in this process have that, too.
    """
    keep_memory()
    module = importlib.import_module(f"{__spec__.parent}.bench_{name}")
    for result in module.measure():
        record = {"kind": type(result).__name__, "module": name} | result.record()
        with lines.open("a") as file:
            file.write(json.dumps(record) + "\n")


def collect(name: str, threads: int, limit_s: float) -> tuple[list[Record], Record]:
    """Run one benchmark in its own process: what it yielded, and how it went."""
    load, began, error = os.getloadavg()[0], time.perf_counter(), ""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with TemporaryDirectory() as folder:
        lines = Path(folder) / "lines"
        lines.touch()
        command = [sys.executable, "-m", __spec__.name, "--child", name, str(lines)]
        # A session of its own, so that whatever a benchmark started ends with it.
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            if status := child.wait(max(limit_s, 1)):
                error = f"failed, exit status {status}; its traceback is above"
        except subprocess.TimeoutExpired:
            error = f"not finished within {limit_s:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        records = [json.loads(line) for line in lines.read_text().splitlines()]
    seconds = round(time.perf_counter() - began, 1)
    return records, {"module": name, "seconds": seconds, "load_before": load, "error": error}


def machine(threads: int) -> Record:
    """Describe what the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    import torch

    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def table(figures: list[Record], runs: list[Record]) -> str:
    """Lay the figures out as Markdown that also reads well on a screen."""
    rows: list[tuple[str, ...]] = [
        ("figure", "ours", "peer", "ratio", "target", "met", "peer is", "check")
    ]
    for f in figures:
        check = f["check"] and f"{f['check']['what']} {f['check']['value']:.1e}"
        rows.append(
            (
                f["figure"],
                f"{f['ours']:.4g} {f['unit']}",
                "" if f["peer"] is None else f"{f['peer']:.4g} {f['unit']}",
                "" if f["ratio"] is None else f"{f['ratio']:.1f}",
                f["target"],
                {True: "yes", False: "**no**", None: ""}[f["met"]],
                f["peer_name"],
                (check or "") + ("" if f["agree"] else " **too far**"),
            )
        )
    rows += [
        (run["module"], "", "", "", "", "**no**", run["error"], "") for run in runs if run["error"]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def plot(curves: list[Record], path: Path) -> None:
    """Draw cost against size, a panel for each kind of size, both axes logarithmic."""
    from matplotlib.figure import Figure as Canvas

    panels = list(dict.fromkeys(curve["panel"] for curve in curves))
    canvas = Canvas(figsize=(3.4 * len(panels), 3.2), layout="constrained")
    for i, panel in enumerate(panels):
        axes = canvas.add_subplot(1, len(panels), i + 1)
        for curve in (c for c in curves if c["panel"] == panel):
            axes.loglog(curve["sizes"], curve["costs"], "o-", label=curve["name"])
            axes.set_xlabel(curve["size_name"])
            axes.set_ylabel(curve["unit"])
            axes.set_xticks(curve["sizes"], [f"{size:g}" for size in curve["sizes"]], minor=False)
        axes.minorticks_off()
        axes.set_title(panel, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    canvas.savefig(path)


def available() -> list[str]:
    """Return the names of the benchmarks in this folder."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=available(), default=available())
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--limit-s", type=float, default=1200, help="for all of them together")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_module(options.child[0], Path(options.child[1]))
        return 0
    records: list[Record] = []
    runs: list[Record] = []
    ends = time.perf_counter() + options.limit_s
    for name in options.only:
        print(f"== {name}", flush=True)
        got, run = collect(name, options.threads, ends - time.perf_counter())
        records += got
        runs.append(run)
        print(f"   {len(got)} results in {run['seconds']} s {run['error']}", flush=True)
        text = write(records, runs, machine(options.threads), options.out)  # whatever comes next
    print("\n" + text)
    return int(any(run["error"] for run in runs))


def write(records: list[Record], runs: list[Record], m: Record, out: Path) -> str:
    """Write what is known so far; returns the table."""
    figures = [record for record in records if record["kind"] == "Figure"]
    curves = [record for record in records if record["kind"] == "Curve"]
    result = {"machine": m, "runs": runs, "figures": figures, "curves": curves}
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    where = f"{m['cpu']}, {m['threads']} of {m['cores']} cores, torch {m['torch']}, {m['date']}"
    text = f"{where}\n\n{table(figures, runs)}\n"
    (out / "bench.md").write_text(text)
    if curves:
        plot(curves, out / "bench.svg")
    return text


if __name__ == "__main__":
    sys.exit(main())
