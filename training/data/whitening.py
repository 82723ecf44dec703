"""What a measured volume is whitened with: its noise readouts, as the pipeline does it.

Without any, nothing is: the deployed pipeline has nothing to whiten with either, and what is
measured here is what it makes.
"""

import torch
from torch import Tensor

from gadgets.mrd.noise import measured, whitening_of
from training.data.volume import MeasuredVolume, naming


def whitening(volume: MeasuredVolume) -> tuple[Tensor | None, str]:
    """Return the whitening matrix (coils, coils) of a volume, or None, and where it is from.

    Raises
    ------
    ValueError
        If there are noise readouts that cannot whiten; the file is named.
    """
    readouts = volume.noise_readouts()
    if not readouts:
        return None, "none: no noise scan"
    with naming(volume.path):
        matrix = whitening_of(
            *measured(readouts),
            volume.index.dwell_us,
            volume.geometry.relative_receiver_noise_bandwidth,
        )
    return torch.from_numpy(matrix), "noise scan"
