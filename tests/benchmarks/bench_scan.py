"""Whole scans in real time: 640 x 368 with two-fold readout oversampling, 15 coils, R = 4.

Interleaved: 30 slices share every TR of 2.5 s, and an echo train takes 16 lines of each,
so that all slices end in the last TR. What remains is one reconstruction a slice, if maps and
compression were made in the gap before. Sequential: slice after slice, the shots of one a TR apart.

    python -m tests.benchmarks.bench_scan timeline.png    draws who did what when

The lines carry no scan token: masks are predicted and not sent, which changes nothing in the times.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gadgets.files.source import Source, open_source
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.items import Acquisition, Image
from gadgets.scanner.adaptive_scan import acquirable_rows, plan_lines
from gadgets.scanner.client import MrdClient
from gadgets.scanner.demo_scan import demo_volume, write_demo
from mnet.masks.densities import equispaced
from tests.benchmarks.bench import Check, Curve, Figure
from tests.benchmarks.hosts import Running, ours

N_SLICES, TR_S, ECHO_TRAIN, ECHO_S = 30, 2.5, 16, 0.005
CONFIG = "adaptive_modl.xml"
Slice = list[Acquisition]


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """When things happened, in seconds since 1970."""

    began: float
    ended: dict[int, float]  # last line of each slice
    arrived: dict[int, float]  # image of each slice
    maps: dict[int, tuple[float, float]]  # began, seconds
    recon: dict[int, tuple[float, float]]

    @property
    def recon_s(self) -> float:
        """The reconstruction time of a slice."""
        return median(seconds for _, seconds in self.recon.values())


class _Stamped(list[Image]):
    """Images, and when each of them came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def append(self, image: Image) -> None:
        self.times.append(time.time())
        super().append(image)


def undersampled(source: Source) -> Slice:
    """Return the lines of the first slice at R = 4, calibration first, the last one marked."""
    lines = plan_lines(acquirable_rows(source), 4.0, ECHO_TRAIN)
    counter = source.geometry.counter
    calibration = set(counter(np.flatnonzero(lines.calibration)).tolist())
    chosen = set(counter(np.flatnonzero(equispaced(lines))).tolist()) - calibration
    by_counter = {
        int(line.header["kspace_encode_step_1"]): line
        for line in source.acquisitions
        if not int(line.header["flags"]) & Flag.NOISE and not int(line.header["slice"])
    }
    ordered = [by_counter[c] for c in (*sorted(calibration), *sorted(chosen))]
    return [_marked(line, 0, last=line is ordered[-1]) for line in ordered]


def _marked(line: Acquisition, number: int, last: bool) -> Acquisition:
    header = line.header.copy()
    header["slice"], header["flags"] = number, Flag.LAST_IN_SLICE if last else 0
    return replace(line, header=header)


def shots(one: Slice, n_slices: int, *, interleaved: bool) -> Iterator[tuple[float, Slice]]:
    """Yield echo trains, each with its time in the scan."""
    trains = [one[i : i + ECHO_TRAIN] for i in range(0, len(one), ECHO_TRAIN)]
    order = [(shot, number) for shot in range(len(trains)) for number in range(n_slices)]
    if not interleaved:
        order = [(shot, number) for number in range(n_slices) for shot in range(len(trains))]
    for i, (shot, number) in enumerate(order):
        at = shot * TR_S + number * TR_S / n_slices if interleaved else i * TR_S
        yield at, [_marked(line, number, last=line is one[-1]) for line in trains[shot]]


def play(host: Running, source: Source, n_slices: int, *, interleaved: bool) -> Played:
    """Run a scan in real time; echoes of a train are 5 ms apart."""
    one = undersampled(source)
    trains = list(shots(one, n_slices, interleaved=interleaved))
    ended: dict[int, float] = {}
    with MrdClient("127.0.0.1", host.port) as client:
        images = client.images = _Stamped()
        client.start(CONFIG, source.header)
        time.sleep(1.0)
        began = time.time()
        for at, train in trains:
            for i, line in enumerate(train):
                time.sleep(max(0.0, began + at + i * ECHO_S - time.time()))
                client.send(line)
            ended[int(train[0].header["slice"])] = time.time()
        client.finish()
    came = {
        int(image.header["slice"]): (image.meta, at)
        for image, at in zip(images, images.times, strict=True)
        if "mnet_recon_ms" in image.meta
    }

    def span(name: str) -> dict[int, tuple[float, float]]:
        return {
            number: (float(meta[f"mnet_{name}_began"]), float(meta[f"mnet_{name}_ms"]) / 1e3)
            for number, (meta, _) in came.items()
        }

    return Played(
        began=began,
        ended=ended,
        arrived={number: at for number, (_, at) in came.items()},
        maps=span("maps"),
        recon=span("recon"),
    )


def measure() -> Iterator[Figure | Curve]:
    with tempfile.TemporaryDirectory() as folder, ours() as host:
        source = _source(Path(folder))
        play(host, source, 1, interleaved=True)
        scan = play(host, source, N_SLICES, interleaved=True)
        yield interleaved(scan)
        yield sequential(play(host, source, 3, interleaved=False))
        yield concurrent(host, source)


def interleaved(scan: Played) -> Figure:
    last = max(scan.ended.values())
    maps_ms = 1e3 * median(seconds for _, seconds in scan.maps.values())
    late = sum(began + seconds > last for began, seconds in scan.maps.values())
    return Figure(
        figure=f"{N_SLICES} slices interleaved: last line to last image, in reconstruction times "
        "of all slices",
        ours=(max(scan.arrived.values()) - last) / (N_SLICES * scan.recon_s),
        unit="x",
        at_most=1.1,
        check=Check(what="slices without an image", value=N_SLICES - len(scan.arrived), at_most=0),
        note=f"{scan.recon_s:.2f} s a slice; TR {TR_S} s, echo train {ECHO_TRAIN}; maps of {late} "
        f"slices were made after the last line; {maps_ms:.0f} ms each",
    )


def sequential(scan: Played) -> Figure:
    numbers = sorted(scan.ended)
    waits = [scan.arrived[k] - scan.ended[k] for k in numbers]
    between = [scan.ended[k + 1] - scan.ended[k] for k in numbers[:-1]]
    return Figure(
        figure="slices one after the other: the longest wait from last line to image",
        ours=max(waits),
        unit="s",
        at_most=min(between),
        check=Check(what="slices without an image", value=3 - len(scan.arrived), at_most=0),
        note=f"TR {TR_S} s, echo train {ECHO_TRAIN}: the next slice is complete after "
        f"{min(between):.1f} s",
    )


def concurrent(host: Running, source: Source) -> Curve:
    """Time 1 to 4 scans of 3 slices at once, sent as fast as they are taken."""
    sizes = (1, 2, 3, 4)
    costs = []
    for n in sizes:
        began = time.perf_counter()
        with ThreadPoolExecutor(n) as pool:
            list(pool.map(lambda _: _burst(host, source), range(n)))
        costs.append((time.perf_counter() - began) / (3 * n))
    return Curve(
        panel="concurrent scans",
        name="seconds a slice",
        sizes=sizes,
        costs=tuple(costs),
        size_name="scans",
    )


def _burst(host: Running, source: Source) -> None:
    with MrdClient("127.0.0.1", host.port) as client:
        client.start(CONFIG, source.header)
        for _, train in shots(undersampled(source), 3, interleaved=True):
            client.send_all(train)
        client.finish()


def _source(folder: Path) -> Source:
    path = folder / "demo.h5"
    write_demo(path, demo_volume(n_slices=1))
    return open_source(path)


def draw(scan: Played, path: Path) -> None:
    """Show per slice when lines came, maps were made, and the image was reconstructed."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9, 4.5), layout="constrained")
    axes: Any = canvas.add_subplot()
    rows = sorted(scan.ended)
    first = [scan.began + k * TR_S / len(rows) for k in rows]
    for name, starts, lengths, colour in (
        ("lines", first, [scan.ended[k] - f for k, f in zip(rows, first, strict=True)], "0.85"),
        ("maps", *zip(*(scan.maps[k] for k in rows), strict=True), "tab:orange"),
        ("reconstruction", *zip(*(scan.recon[k] for k in rows), strict=True), "tab:blue"),
    ):
        axes.barh(rows, lengths, left=[s - scan.began for s in starts], color=colour, label=name)
    arrived = [scan.arrived[k] - scan.began for k in rows]
    axes.plot(arrived, rows, "k|", markersize=7, label="image at the scanner")
    axes.axvline(max(scan.ended.values()) - scan.began, color="k", lw=0.8, ls=":")
    axes.set_xlabel("seconds since the first line; dotted: the last one")
    axes.set_ylabel("slice")
    axes.legend(loc="lower right")
    canvas.savefig(path, dpi=110)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, ours() as running:
        data = _source(Path(place))
        n = int(sys.argv[2]) if len(sys.argv) > 2 else N_SLICES
        played = play(running, data, n, interleaved=True)
        draw(played, Path(sys.argv[1]))
        print(interleaved(played))
