"""The readout transform: kx samples to the pixels along x that are kept of them."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def to_pixels(kx: Tensor, n_x: int) -> Tensor:
    """Return the central `n_x` pixels (..., n_x) of `inverse_fourier` along the last axis.

    To crop the oversampling like this is exact. A shift before a transform is a phase after it, and
    the shift after it a choice of what to keep: a third of the time goes, and these run for every
    line of a scan.
    """
    n = kx.shape[-1]
    x = torch.fft.ifft(kx, norm="forward")
    phase, before = _phase(n, n_x, x.dtype).to(x.device), n_x // 2
    kept: Tensor = x.new_empty((*kx.shape[:-1], n_x))
    torch.mul(x[..., n - before :], phase[:before], out=kept[..., :before])
    torch.mul(x[..., : n_x - before], phase[before:], out=kept[..., before:])
    return kept


@lru_cache(maxsize=8)
def _phase(n: int, n_x: int, dtype: torch.dtype) -> Tensor:
    """Return what the first half of `n` samples, moved behind the second, does to `n_x` outputs.

    With the scale of an orthonormal transform, so that nothing else is left to multiply with.
    """
    at = np.arange(n_x) - n_x // 2
    phase = np.exp(-2j * np.pi * (n // 2) / n * at) / np.sqrt(n)
    return torch.from_numpy(phase).to(dtype)
