"""Who is exact, and where: the maps of `bench_espirit`, of the plain version, of BART and sigpy.

Both peers stop their power iteration after a fixed number of steps: where two eigenvalues are
close, long before they arrive. A comparison with them holds where theory says that they have
arrived; elsewhere our angle to the exact maps stands beside the peer's. A picture of all pixels:

    .venv/bin/python -m tests.benchmarks.espirit_peers docs/espirit-peers.png
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from sigpy.mri.app import EspiritCalib
from torch import Tensor

from gadgets.scanner.demo_scan import demo_volume
from mnet.physics.espirit import espirit
from mnet.physics.fourier import fourier, inverse_fourier
from tests.benchmarks.bench import Check, Figure
from tests.mnet.helpers.espirit_plain import eigenmaps
from training.real.bart import read_cfl, write_cfl

CROP = 0.9
COILS, SHAPE = 15, (320, 368)
CONVERGED = 1e-3  # rad: bound on a peer's angle to the exact vector where ours is compared with it


def kspace_of(n_coils: int, shape: tuple[int, int]) -> Tensor:
    """Return the k-space (coils, x, y) of one slice, its readout oversampling removed."""
    volume = demo_volume(1, n_coils, *shape, n_acquirable=shape[1] * 7 // 8)
    image = inverse_fourier(torch.from_numpy(volume.kspace[0]), 1)
    return fourier(image.narrow(1, shape[0] // 2, shape[0]), 1).to(torch.complex64)


def block(kspace: Tensor) -> Tensor:
    """Cut the central 24 x 24 out."""
    x, y = (n // 2 - 12 for n in kspace.shape[-2:])
    return kspace[..., x : x + 24, y : y + 24].contiguous()


def has_map(maps: Tensor) -> Tensor:
    """Return where maps (coils, x, y) are not cropped."""
    return maps.abs().sum(0) > 0


def angles(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """Return (the sine of) the angles between two sets of vectors, of any length and phase."""
    a, b = (maps.to(torch.complex128)[:, where] for maps in (a, b))
    a, b = a / a.norm(dim=0), b / b.norm(dim=0)
    return (a - b * (b.conj() * a).sum(0)).norm(dim=0)


def distance(a: Tensor, b: Tensor, where: Tensor) -> float:
    """Return the RMS angle: NaN, which passes no check, where there is nothing to compare."""
    return float(angles(a, b, where).norm() / where.sum().sqrt())


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """What the plain version finds, in double precision: (coils, x, y) both, nothing cropped."""

    maps: Tensor
    eigenvalues: Tensor  # the greatest first

    def bound(self, start: Tensor, steps: int) -> Tensor:
        """Bound the angle to the maps (x, y), in rad, after power iteration from `start` (coils,).

        Every step reduces its tangent by the ratio of the two greatest eigenvalues, or more: Golub
        and Van Loan, Matrix Computations (2013), theorem 8.2.1.
        """
        cosine = (self.maps.conj() * start.to(self.maps)[:, None, None]).sum(0).abs() / start.norm()
        tangent = (1 - cosine**2).clamp_min(0).sqrt() / cosine
        return tangent * (self.eigenvalues[1] / self.eigenvalues[0]) ** steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer's maps, and the iteration that they come from."""

    name: str
    maps: Tensor
    start: Tensor
    steps: int

    def compare(self, ours: Tensor, exact: Exact) -> tuple[Check, str, Figure]:
        """Check ours where the peer has converged, in words too; how far both are elsewhere."""
        both = has_map(ours) & has_map(self.maps)
        near = both & (exact.bound(self.start, self.steps) < CONVERGED)
        far = both & ~near
        share = float(near.sum() / both.sum())
        cropped = float((has_map(ours) != has_map(self.maps)).double().mean())
        where = (
            f"{share:.1%} of pixels, where {self.steps} power iterations are within {CONVERGED} rad"
        )
        check = Check(
            what=f"RMS angle between maps on {where}",
            value=distance(ours, self.maps, near),
            at_most=1e-3,
        )
        elsewhere = Figure(
            figure=f"ESPIRiT maps on the other {1 - share:.1%} of pixels: RMS angle to exact ones",
            ours=distance(ours, exact.maps, far),
            peer=distance(self.maps, exact.maps, far),
            unit="rad",
            peer_name=f"{self.name}, {self.steps} power iterations",
            min_ratio=1,
            note="exact: tests.mnet.helpers.espirit_plain in double precision",
        )
        note = f"compared on {where}; on the other side of the crop: {cropped:.1e} of all"
        return check, note, elsewhere


def exact_of(calibration: Tensor) -> Exact:
    """Diagonalise every pixel in double precision."""
    maps, eigenvalues = eigenmaps(calibration.to(torch.complex128), SHAPE)
    return Exact(maps=maps, eigenvalues=eigenvalues)


def write_for_bart(kspace: Tensor, folder: Path) -> None:
    """Write what `run_bart` reads."""
    write_cfl(folder / "kspace", kspace.numpy().transpose(1, 2, 0)[:, :, None, :])


def run_bart(folder: Path, *more: str) -> None:
    """Run `bart ecalib` on files.

    -C takes the central block, as all others do: without it BART moves the block along the readout
    to where the energy is greatest. It is not in BART's help, and neither is -O, which diagonalises
    instead of iterating.
    """
    settings = f"-C -m1 -k6:6:1 -r24:24:1 -t{0.02**2:.8f} -c{CROP}".split()
    command = ["bart", "ecalib", *settings, *more, "kspace", "maps"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def bart_of(folder: Path) -> Peer:
    """Read what `run_bart` wrote: 30 iterations from the first coil."""
    maps = torch.from_numpy(read_cfl(folder / "maps").transpose(2, 0, 1).copy())
    return Peer(name="bart ecalib", maps=maps, start=torch.eye(COILS)[0], steps=30)


def sigpy_of(kspace: Tensor, steps: int = 100) -> Peer:
    """Run sigpy's EspiritCalib: its iteration begins with ones, and takes 100 steps by default."""
    settings = {"calib_width": 24, "thresh": 0.02, "kernel_width": 6, "crop": CROP}
    app = EspiritCalib(kspace.numpy(), **settings, max_iter=steps, show_pbar=False)
    maps = torch.from_numpy(app.run())
    return Peer(name="sigpy EspiritCalib", maps=maps, start=torch.ones(COILS), steps=steps)


def draw(path: Path) -> None:
    """Draw every pixel's angle to the exact maps against how close its eigenvalues are."""
    from matplotlib.figure import Figure as Canvas

    kspace = kspace_of(COILS, SHAPE)
    exact = exact_of(block(kspace))
    peers = {f"sigpy, {n} steps": sigpy_of(kspace, n) for n in (400, 100)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_for_bart(kspace, folder)
        run_bart(folder)
        peers["BART, 30 steps"] = bart_of(folder)
        run_bart(folder, "-O")
        diagonalised = bart_of(folder).maps
    sides = {name: peer.maps for name, peer in peers.items()}
    sides |= {"BART, diagonalised (-O)": diagonalised}
    sides |= {"ours": espirit(block(kspace), SHAPE, crop=CROP)}
    canvas = Canvas(figsize=(7, 4.2), layout="constrained")
    axes = canvas.add_subplot()
    ratio = exact.eigenvalues[1] / exact.eigenvalues[0]
    line = torch.linspace(0.2, 1, 400)
    for i, (name, maps) in enumerate(sides.items()):
        angle = angles(maps, exact.maps, has_map(maps))
        label = f"{name}: RMS {angle.square().mean().sqrt():.1e}"
        axes.semilogy(ratio[has_map(maps)][::5], angle[::5], f"C{i}.", ms=1, label=label)
        if name in peers:
            axes.semilogy(line, line ** peers[name].steps, f"C{i}--", lw=1)
    axes.set_xlabel("second eigenvalue / first")
    axes.set_ylabel("angle to the exact maps, rad")
    axes.set_ylim(1e-8, 2)
    axes.set_title("dashed: (second / first)^steps", fontsize=10)
    axes.legend(markerscale=8, fontsize=8, loc="upper left")
    axes.grid(alpha=0.3)
    canvas.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
