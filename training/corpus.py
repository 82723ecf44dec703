"""Simulated scans on disk: drawn once, read by every training step.

A scan is one safetensors file: `kspace` (coils, x, ky) complex64 hybrid and noisy, `csm` of the
same shape as the deployed pipeline estimates them, from the calibration lines of the nominal
acceleration drawn for the scan, `clean` the noise-free k-space, `acquirable` (ky,). Real and
imaginary parts are stored last. Deterministic by (seed, number); interrupted runs go on.

    python -m training.corpus --images ../shared/data/images --out runs/corpus --split train --n 400
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from mnet.maps import coil_maps
from mnet.masks import Bool, Lines
from training.images import Split, load_split
from training.simulate import draw_size, simulate

SEEDS: dict[Split, int] = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One simulated scan with maps from its calibration lines."""

    kspace: Tensor  # (coils, x, ky) complex64, hybrid, noisy
    clean: Tensor  # the same without noise
    csm: Tensor  # (coils, x, y), estimated
    acquirable: Bool  # (ky,)
    acceleration: float  # nominal; the maps are from its calibration lines

    def lines(self, acceleration: float | None = None) -> Lines:
        """Plan budget and calibration."""
        return Lines.plan(self.acquirable, acceleration or self.acceleration)


def draw(volumes: list, split: Split, number: int, largest: int = 368) -> Sample:  # type: ignore[type-arg]
    """Draw scan `number` of a split."""
    rng = np.random.default_rng([SEEDS[split], number])
    scan = simulate(volumes, draw_size(rng, largest), rng)
    kspace = scan.measure(rng)
    acceleration = float(rng.choice([2.0, 3.0, 4.0, 4.0, 4.0, 6.0, 8.0]))
    lines = Lines.plan(scan.acquirable, acceleration)
    calibration = kspace[..., torch.from_numpy(lines.calibration)]
    return Sample(
        kspace=kspace,
        clean=scan.signal,
        csm=coil_maps(calibration, kspace.shape[-1]),
        acquirable=scan.acquirable,
        acceleration=acceleration,
    )


def save(sample: Sample, path: Path) -> None:
    """Write one scan; the file appears only when it is whole."""
    tensors = {
        "kspace": torch.view_as_real(sample.kspace).contiguous(),
        "clean": torch.view_as_real(sample.clean).contiguous(),
        "csm": torch.view_as_real(sample.csm).contiguous(),
        "acquirable": torch.from_numpy(sample.acquirable),
        "acceleration": torch.tensor(sample.acceleration),
    }
    part = path.with_suffix(".part")
    save_file(tensors, part)
    os.replace(part, path)


def load(path: Path) -> Sample:
    """Read one scan."""
    t = load_file(path)
    return Sample(
        kspace=torch.view_as_complex(t["kspace"]),
        clean=torch.view_as_complex(t["clean"]),
        csm=torch.view_as_complex(t["csm"]),
        acquirable=t["acquirable"].numpy(),
        acceleration=float(t["acceleration"]),
    )


def main() -> None:
    """Draw what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", choices=sorted(SEEDS), required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.out / options.split
    folder.mkdir(parents=True, exist_ok=True)
    missing = [
        number
        for number in range(options.first, options.first + options.n)
        if not (folder / f"{number:05d}.safetensors").exists()
    ]
    volumes = load_split(options.images, options.split) if missing else []
    for number in tqdm(missing, desc=options.split):
        save(draw(volumes, options.split, number), folder / f"{number:05d}.safetensors")


if __name__ == "__main__":
    main()
