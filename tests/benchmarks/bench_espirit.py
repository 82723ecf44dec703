"""ESPIRiT: one slice of a head, 15 coils, 320 x 368, against sigpy and BART; growth of ours.

All sides get the same 24 x 24 calibration block, a kernel of 6, a threshold of 0.02, one map. BART
is a program that reads and writes files, here in /dev/shm, so none of them touches a disk. Its
time without them and without starting is the difference to `bart copy` of the same k-space plus
one of maps of the same size.
The checks compare with a peer where it has converged; `espirit_peers` says where and why.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from mnet.physics.coil_maps import coil_maps
from mnet.physics.espirit import espirit
from mnet.physics.fourier import inverse_fourier
from tests.benchmarks.bench import Check, Curve, Figure, by_turns, median
from tests.benchmarks.espirit_peers import (
    COILS,
    CROP,
    SHAPE,
    Exact,
    Peer,
    bart_of,
    block,
    distance,
    exact_of,
    has_map,
    kspace_of,
    run_bart,
    sigpy_of,
    write_for_bart,
)

REPEATS = 7


def measure() -> Iterator[Figure | Curve]:
    kspace = kspace_of(COILS, SHAPE)
    calibration = block(kspace)
    ours = partial(espirit, calibration, SHAPE, crop=CROP)
    figure, exact = against_plain(calibration, ours)
    yield figure
    if shutil.which("bart"):
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            yield from against_bart(kspace, ours, exact, Path(folder))
    yield from against_sigpy(kspace, ours, exact)
    yield from growth()


def against_plain(calibration: Tensor, ours: Callable[[], Tensor]) -> tuple[Figure, Exact]:
    """Time the plain version once, in double precision, and check ours with it."""
    found: list[Exact] = []

    def plain() -> None:
        found[:] = [exact_of(calibration)]

    seconds = by_turns({"ours": ours, "plain": plain}, repeats=1, warmup=0)
    seconds["ours"] = by_turns({"ours": ours}, REPEATS)["ours"]
    exact, fast = found[0], ours()
    inside = exact.eigenvalues[0] > CROP
    gap = distance(fast, exact.maps, inside & has_map(fast))
    wrong = (has_map(fast) != inside).double().mean()
    figure = Figure(
        figure="ESPIRiT maps, 15 coils, 320 x 368, against our plain version",
        ours=median(seconds["ours"]),
        peer=seconds["plain"][0],
        unit="s",
        peer_name="espirit_plain, double precision: SVD, every pixel diagonalised; run once",
        min_ratio=1,
        check=Check(what="RMS angle between maps", value=gap, at_most=1e-3),
        note=f"pixels on the other side of the crop: {wrong:.1e} of all",
    )
    return figure, exact


def against_bart(
    kspace: Tensor, ours: Callable[[], Tensor], exact: Exact, folder: Path
) -> Iterator[Figure]:
    """Time BART with its files, and the files alone."""
    write_for_bart(kspace, folder)

    def files_only() -> None:
        command = ["bart", "copy", "kspace", "copied"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    seconds = by_turns(
        {"ours": ours, "bart": lambda: run_bart(folder), "files": files_only}, REPEATS
    )
    check, note, elsewhere = bart_of(folder).compare(ours(), exact)
    version = subprocess.run(["bart", "version"], capture_output=True, text=True).stdout.strip()
    whole, files = median(seconds["bart"]), median(seconds["files"])
    for name, peer_s in (
        ("files in /dev/shm and start counted", whole),
        ("files and start not counted (less `bart copy` of its k-space)", whole - files),
    ):
        yield Figure(
            figure="ESPIRiT maps, 15 coils, 320 x 368",
            ours=median(seconds["ours"]),
            peer=peer_s,
            unit="s",
            peer_name=f"bart {version} ecalib, {name}",
            min_ratio=8,
            check=check,
            note=note,
        )
    yield elsewhere


def against_sigpy(kspace: Tensor, ours: Callable[[], Tensor], exact: Exact) -> Iterator[Figure]:
    """Time sigpy's EspiritCalib on a processor."""
    found: list[Peer] = []

    def sigpy() -> None:
        found[:] = [sigpy_of(kspace)]

    seconds = by_turns({"ours": ours, "sigpy": sigpy}, repeats=3)
    check, note, elsewhere = found[0].compare(ours(), exact)
    yield Figure(
        figure="ESPIRiT maps, 15 coils, 320 x 368",
        ours=median(seconds["ours"]),
        peer=median(seconds["sigpy"]),
        unit="s",
        peer_name="sigpy EspiritCalib, arrays in memory, 100 power iterations",
        min_ratio=40,
        check=check,
        note=note,
    )
    yield elsewhere


def growth() -> Iterator[Curve]:
    """Time ours against coils, matrix and slices."""

    def cost(calibration: Tensor, shape: tuple[int, int]) -> float:
        return median(by_turns({"": lambda: espirit(calibration, shape, crop=CROP)}, 3)[""])

    coils = (4, 8, 16, 32, 64)  # above MOST_COILS compressed, as deployed
    lines = inverse_fourier(kspace_of(max(coils), SHAPE), dim=-2)
    lines = lines[..., SHAPE[1] // 2 - 12 : SHAPE[1] // 2 + 12]
    some = {n: lines[:: max(coils) // n].contiguous() for n in coils}
    seconds = tuple(
        median(by_turns({"": partial(coil_maps, some[n], SHAPE[1])}, 3)[""]) for n in coils
    )
    yield Curve(
        panel="ESPIRiT, 320 x 368", name="ours", sizes=coils, costs=seconds, size_name="coils"
    )
    # The block is the same at every matrix: the maps alone get finer.
    calibration = block(kspace_of(COILS, SHAPE))
    sizes = (128, 192, 256, 384, 512)
    seconds = tuple(cost(calibration, (n, n)) for n in sizes)
    yield Curve(
        panel="ESPIRiT, 15 coils", name="ours", sizes=sizes, costs=seconds, size_name="matrix"
    )
    slices = (1, 4, 16, 64)
    seconds = tuple(cost(calibration.expand(n, -1, -1, -1), (128, 128)) for n in slices)
    yield Curve(
        panel="ESPIRiT, 15 coils, 128 x 128",
        name="ours",
        sizes=slices,
        costs=seconds,
        size_name="slices",
    )
