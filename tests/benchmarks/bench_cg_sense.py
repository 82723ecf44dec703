"""CG-SENSE: one slice of a simulated head, 15 coils, 320 x 368, R = 4, against BART's `pics`.

Both sides get the same k-space, maps, weight and number of steps. BART is a program that reads
and writes files, here in /dev/shm; what that and its start cost is the time of a single step less.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from mnet.physics.fourier import fourier
from mnet.recon.linear import cg_sense
from tests.benchmarks.bench import Check, Figure, by_turns, median
from tests.benchmarks.bench_modl import distance, make
from training.real.bart import read_cfl, write_cfl

LAM, STEPS, REPEATS = 0.02, 30, 5


def measure() -> Iterator[Figure]:
    if not shutil.which("bart"):
        return
    hybrid, csm, mask = make().cropped()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        for file, array in (("kspace", fourier(hybrid[0], dim=-2)), ("maps", csm[0])):
            write_cfl(folder / file, array.numpy().transpose(1, 2, 0)[:, :, None, :])

        def bart(n_steps: int) -> None:
            # -w1: BART would scale its data, and with them what the weight means
            settings = f"-l2 -r{LAM} -i{n_steps} -w1".split()
            command = ["bart", "pics", *settings, "kspace", "maps", "image"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

        def ours() -> torch.Tensor:
            return cg_sense(hybrid, csm, mask, lam=LAM, n_iterations=STEPS, tolerance=0)

        seconds = by_turns(
            {"ours": ours, "one step": lambda: bart(1), "bart": lambda: bart(STEPS)}, REPEATS
        )
        theirs = torch.from_numpy(read_cfl(folder / "image").copy())
        difference = distance(ours()[0], theirs)
    whole, start = median(seconds["bart"]), median(seconds["one step"])
    version = subprocess.run(["bart", "version"], capture_output=True, text=True).stdout.strip()
    for peer, counted in ((whole, "counted"), (whole - start, "not counted")):
        yield Figure(
            figure=f"CG-SENSE, {STEPS} steps, one slice",
            ours=median(seconds["ours"]),
            peer=peer,
            unit="s",
            peer_name=f"bart {version} pics -l2, files in /dev/shm and start {counted}",
            check=Check(what="difference of the images", value=difference, at_most=1e-2),
        )
