"""What a slice's time consists of: a picture for docs/performance.md.

    .venv/bin/python -m tests.benchmarks.where_time_goes docs/profile.png

MoDL, maps and the mask are told apart by torch's own profiler, on the cores that torch takes; the
stream, which is mostly not torch, by Python's, with its bytes sent from a process of their own.
"""

import cProfile
import os
import pstats
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from gadgets.mrd.bursts import LineReader
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.messages import Close, read_message
from gadgets.mrd.sockets import SocketReader
from gadgets.pipeline.chain import chain
from gadgets.pipeline.intake import intake
from gadgets.pipeline.scan import Scan
from gadgets.steps.accumulate import AccumulateFrame
from gadgets.steps.readout import RemoveReadoutOversampling
from mnet.masks.line_plan import LinePlan
from mnet.physics.espirit import espirit
from mnet.recon.modl import MoDL
from mnet.sampler.features import coil_features, features
from mnet.sampler.mnet import mask_of
from mnet.weight_files import load_weights
from tests.benchmarks.bench_modl import infer, make
from tests.benchmarks.espirit_peers import CROP, block, kspace_of
from tests.benchmarks.hosts import N_COILS, N_KY, header, say, send_slices, slice_of_lines

REPEATS, N_SLICES = 10, 6
GROUPS = {  # name: which functions of torch, Python and NumPy; the first that fits counts
    "convolutions": r"conv",
    "Fourier transforms": r"fft",
    "products and decompositions": r"mm|linalg|eig|svd|cholesky|triangular|dot",
    "from the kernel": r"recvmsg",
    "arithmetic": r"::(mul|add|sub|div|abs|sum|pow|sqrt|exp|log|mean|addcmul|silu|relu)|\.mul",
    "copies": r"copy|cat|stack|index|roll|clone|fill|zero|add_all|gather|empty|contiguous",
}
Shares = Counter[str]


def group_of(name: str) -> str:
    """Return the group that a function counts to."""
    return next((group for group, what in GROUPS.items() if re.search(what, name)), "the rest")


def by_torch(run: Callable[[], object]) -> Shares:
    """Return milliseconds of one run by group."""
    for _ in range(3):
        run()
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(REPEATS):
            run()
    shares: Shares = Counter()
    for event in found.key_averages():
        shares[group_of(event.key)] += event.self_cpu_time_total / 1000 / REPEATS
    return shares


def stream() -> Shares:
    """Return milliseconds by group that a slice's lines cost between the socket and their frame."""
    lines = slice_of_lines()
    listener = socket.create_server(("127.0.0.1", 0))
    if os.fork() == 0:
        with socket.create_connection(listener.getsockname()) as sock:
            send_slices(sock, lines, N_SLICES)
            say(sock, Close())
            sock.recv(1)
        os._exit(0)
    torch.set_num_threads(1)
    sock, _ = listener.accept()
    reader = LineReader(SocketReader(sock), read_message)
    items = iter(reader.next, Close())
    scan = Scan(geometry=Geometry.parse(header(N_SLICES)))
    gadgets = RemoveReadoutOversampling(), AccumulateFrame()
    with cProfile.Profile() as found:
        n_frames = len(list(chain(gadgets, scan, intake(scan, items))))  # type: ignore[arg-type]
    sock.close()
    os.wait()
    if n_frames != N_SLICES:
        raise RuntimeError(f"{n_frames} frames came of {N_SLICES} slices")
    shares: Shares = Counter()
    for (_, _, name), (_, _, seconds, _, _) in pstats.Stats(found).stats.items():  # type: ignore[attr-defined]
        shares[group_of(name)] += 1000 * seconds / N_SLICES
    return shares


def mask() -> Callable[[], object]:
    """Return the decision on one slice."""
    model = load_weights("mnet_select")[0]
    lines = LinePlan.of(np.ones(N_KY, bool), 4.0, N_KY // 2)
    size = 1, N_COILS, 320, int(lines.calibration.sum())
    calibration = torch.randn(size, dtype=torch.complex64)
    z, thin = features(calibration), calibration[..., :: 320 // 32, :]
    return lambda: mask_of(model(z, lines, coil_features(thin))[0], lines)


def main(path: str) -> None:
    """Measure and draw."""
    import matplotlib

    matplotlib.use("svg" if path.endswith("svg") else "agg")
    from matplotlib import pyplot

    model = load_weights("modl")[0]
    if not isinstance(model, MoDL):
        raise TypeError("weights 'modl' are not a MoDL")
    inputs, calibration = make().cropped(), block(kspace_of(N_COILS, (320, N_KY)))
    parts = {
        "MoDL": by_torch(lambda: infer(model, inputs)),
        "maps (ESPIRiT)": by_torch(lambda: espirit(calibration, (320, N_KY), crop=CROP)),
        "mask": by_torch(mask()),
        f"{N_KY} lines into a frame": stream(),
    }
    figure, axes = pyplot.subplots(figsize=(9, 3.4), layout="constrained")
    labels = [f"{name}\n{shares.total():.3g} ms" for name, shares in parts.items()]
    left = np.zeros(len(parts))
    for number, group in enumerate([*GROUPS, "the rest"]):
        width = np.array([100 * shares[group] / shares.total() for shares in parts.values()])
        axes.barh(labels, width, left=left, label=group, color=f"C{number}")
        left += width
    axes.invert_yaxis()
    axes.set(xlabel="% of the processor time of one slice, 15 coils, 320 x 368", xlim=(0, 100))
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])
