"""ESPIRiT: one slice of a head, 15 coils, 320 x 368, against sigpy and BART; growth of ours.

All sides get the same 24 x 24 calibration block, a kernel of 6, a threshold of 0.02, one map. BART
is a program that reads and writes files, here in /dev/shm, so none of them touches a disk. Its
time without them and without starting is the difference to `bart copy` of the same k-space plus
one of maps of the same size.
"""

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sigpy.mri.app import EspiritCalib
from torch import Tensor

from gadgets.anatomy import demo_volume
from mnet.espirit import espirit
from mnet.espirit_plain import eigenmaps
from mnet.fourier import fourier, inverse_fourier

from .bart_files import read_cfl, write_cfl
from .bench import Check, Curve, Figure, by_turns, median

Array = NDArray[np.complex64]
CROP = 0.9
COILS, SHAPE = 15, (320, 368)
REPEATS = 7


def kspace_of(n_coils: int, shape: tuple[int, int]) -> Tensor:
    """Return the k-space (coils, x, y) of one slice, its readout oversampling removed."""
    volume = demo_volume(1, n_coils, *shape, n_acquirable=shape[1] * 7 // 8)
    image = inverse_fourier(torch.from_numpy(volume.kspace[0]), 1)
    return fourier(image.narrow(1, shape[0] // 2, shape[0]), 1).to(torch.complex64)


def block(kspace: Tensor) -> Tensor:
    """Cut the central 24 x 24 out."""
    x, y = (n // 2 - 12 for n in kspace.shape[-2:])
    return kspace[..., x : x + 24, y : y + 24].contiguous()


def distance(a: Tensor, b: Tensor) -> float:
    """Return the RMS angle between two sets of unit vectors where both have a map."""
    where = (a.abs().sum(0) > 0) & (b.abs().sum(0) > 0)
    a, b = (maps.to(torch.complex128)[:, where] for maps in (a, b))
    a, b = a / a.norm(dim=0), b / b.norm(dim=0)
    return float((a - b * (b.conj() * a).sum(0)).norm() / where.sum().sqrt())


def measure() -> Iterator[Figure | Curve]:
    kspace = kspace_of(COILS, SHAPE)
    calibration = block(kspace)
    ours = functools.partial(espirit, calibration, SHAPE, crop=CROP)
    yield against_plain(calibration, ours)
    if shutil.which("bart"):
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            yield from against_bart(kspace, ours, Path(folder))
    yield against_sigpy(kspace, ours)
    yield from growth()


def against_plain(calibration: Tensor, ours: Callable[[], Tensor]) -> Figure:
    """Time the plain version once, in double precision, and check ours with it."""
    found: list[Tensor] = []

    def plain() -> None:
        maps, value = eigenmaps(calibration.to(torch.complex128), SHAPE)
        found[:] = [maps, value > CROP]

    seconds = by_turns({"ours": ours, "plain": plain}, repeats=1, warmup=0)
    seconds["ours"] = by_turns({"ours": ours}, REPEATS)["ours"]
    fast = ours()
    wrong = ((fast.abs().sum(0) > 0) != found[1]).double().mean()
    return Figure(
        figure="ESPIRiT maps, 15 coils, 320 x 368, against our plain version",
        ours=median(seconds["ours"]),
        peer=seconds["plain"][0],
        unit="s",
        peer_name="mnet.espirit_plain, double precision: SVD, every pixel diagonalised; run once",
        min_ratio=1,
        check=Check(what="RMS angle between maps", value=distance(fast, found[0]), at_most=1e-3),
        note=f"pixels on the other side of the crop: {wrong:.1e} of all",
    )


def against_bart(kspace: Tensor, ours: Callable[[], Tensor], folder: Path) -> Iterator[Figure]:
    """Time BART with its files, and the files alone."""
    write_cfl(folder / "kspace", kspace.numpy().transpose(1, 2, 0)[:, :, None, :])
    settings = f"-m1 -k6:6:1 -r24:24:1 -t{0.02**2:.8f} -c{CROP}".split()

    def bart(*command: str) -> None:
        subprocess.run(["bart", *command], cwd=folder, check=True, capture_output=True)

    def files_only() -> None:
        bart("copy", "kspace", "copied")

    seconds = by_turns(
        {
            "ours": ours,
            "bart": lambda: bart("ecalib", *settings, "kspace", "maps"),
            "files": files_only,
        },
        REPEATS,
    )
    maps = torch.from_numpy(read_cfl(folder / "maps").transpose(2, 0, 1).copy())
    # BART stops after 30 power iterations: it is the one that is off where eigenvalues are close.
    check = Check(what="RMS angle between maps", value=distance(ours(), maps), at_most=3e-2)
    version = subprocess.run(["bart", "version"], capture_output=True, text=True).stdout.strip()
    whole, files = median(seconds["bart"]), median(seconds["files"])
    for name, peer in (
        ("files in /dev/shm and start counted", whole),
        ("files and start not counted (less `bart copy` of its k-space)", whole - files),
    ):
        yield Figure(
            figure="ESPIRiT maps, 15 coils, 320 x 368",
            ours=median(seconds["ours"]),
            peer=peer,
            unit="s",
            peer_name=f"bart {version} ecalib, {name}",
            min_ratio=8,
            check=check,
        )


def against_sigpy(kspace: Tensor, ours: Callable[[], Tensor]) -> Figure:
    """Time sigpy's EspiritCalib on a processor."""
    found: list[Array] = []

    def sigpy() -> None:
        settings = {"calib_width": 24, "thresh": 0.02, "kernel_width": 6, "crop": CROP}
        found[:] = [EspiritCalib(kspace.numpy(), **settings, show_pbar=False).run()]

    seconds = by_turns({"ours": ours, "sigpy": sigpy}, repeats=3)
    gap = distance(ours(), torch.from_numpy(found[0]))
    return Figure(
        figure="ESPIRiT maps, 15 coils, 320 x 368",
        ours=median(seconds["ours"]),
        peer=median(seconds["sigpy"]),
        unit="s",
        peer_name="sigpy EspiritCalib, arrays in memory, 100 power iterations",
        min_ratio=40,
        check=Check(what="RMS angle between maps", value=gap, at_most=3e-2),
    )


def growth() -> Iterator[Curve]:
    """Time ours against coils, matrix and slices."""

    def cost(calibration: Tensor, shape: tuple[int, int]) -> float:
        return median(by_turns({"": lambda: espirit(calibration, shape, crop=CROP)}, 3)[""])

    coils = (4, 8, 16, 32)
    wide = block(kspace_of(max(coils), SHAPE))
    seconds = tuple(cost(wide[:: max(coils) // n].contiguous(), SHAPE) for n in coils)
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
