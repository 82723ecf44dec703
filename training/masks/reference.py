"""Scans with a reference scan: maps are from its lines, so that few are left for calibration.

A reference scan is N_REFERENCE central lines outside the budget, measured once for a slice whatever
follows. Simulated, its noise is drawn for itself; of a measured scan its lines are the scan's own.
"""

from dataclasses import replace

import numpy as np
import torch

from mnet.masks.line_plan import centre_block
from mnet.physics.coil_maps import coil_maps
from training.data.corpus import Sample

N_REFERENCE = 24


def redrawn(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return a scan with other noise of its level; the maps stay those of its calibration."""
    acquirable = torch.from_numpy(sample.acquirable)
    level = float((sample.kspace - sample.clean)[..., acquirable].abs().square().mean().sqrt())
    parts = rng.standard_normal((*sample.clean.shape, 2), dtype=np.float32)
    noise = torch.view_as_complex(torch.from_numpy(parts)) * (level / np.sqrt(2))
    return replace(sample, kspace=sample.clean + noise * acquirable)


def with_reference(sample: Sample, n_calibration: int, rng: np.random.Generator) -> Sample:
    """Return a scan of at most `n_calibration` calibration lines, its maps from a reference scan.

    Raises ValueError where N_REFERENCE lines have no room among the acquirable rows.
    """
    lines = redrawn(sample, rng).kspace
    block = centre_block(sample.acquirable, N_REFERENCE, sample.plan().center)
    maps = coil_maps(lines[..., torch.from_numpy(block)], lines.shape[-1])
    return replace(sample, csm=maps, n_calibration=n_calibration)
