"""BART's l1-wavelet image, where BART is installed: the peer that users know.

`bart pics -R W:7:0:w -i 100` of the same lines with the same maps. Uecker et al. 2015, BART,
doi:10.5281/zenodo.592960.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnet.physics.fourier import fourier


def installed() -> bool:
    """Say whether there is a BART to call."""
    return shutil.which("bart") is not None


def version() -> str:
    """Return the version of BART; an empty text where there is none."""
    if not installed():
        return ""
    found = subprocess.run(["bart", "version"], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def l1_wavelet(kspace: Tensor, csm: Tensor, mask: Tensor, weight: float) -> Tensor:
    """Return the image (x, y) of hybrid k-space and maps (coils, x, ky) and a mask (ky,)."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        pattern = mask.expand(kspace.shape[1:])
        write_cfl(folder / "kspace", _bart_order(fourier(kspace, dim=-2)))
        write_cfl(folder / "maps", _bart_order(csm))
        write_cfl(folder / "pattern", pattern.numpy())
        # -S: the image in the unit of the data, which BART scales by its own rule
        settings = ["-R", f"W:7:0:{weight:g}", "-i", "100", "-S", "-p", "pattern"]
        command = ["bart", "pics", *settings, "kspace", "maps", "image"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return torch.from_numpy(read_cfl(folder / "image").copy())


def write_cfl(path: Path, array: NDArray[Any]) -> None:
    """Write an array as BART reads it: NAME.hdr and NAME.cfl."""
    sizes = " ".join(str(n) for n in array.shape)
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{sizes}\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def read_cfl(path: Path) -> NDArray[Any]:
    """Read what BART wrote, without its axes of one."""
    sizes = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(sizes, order="F").squeeze()


def _bart_order(array: Tensor) -> NDArray[Any]:
    """Bring (coils, x, y) to (x, y, 1, coils)."""
    moved: NDArray[Any] = array.resolve_conj().numpy().transpose(1, 2, 0)[:, :, None, :]
    return moved
