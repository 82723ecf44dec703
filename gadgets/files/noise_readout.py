"""A noise readout made up of a stored covariance, for hosts that have not stored it."""

import math

import numpy as np

from ..mrd.header_layouts import ACQUISITION_HEADER, Flag
from ..mrd.items import Acquisition
from .noise_store import Noise


def as_readout(noise: Noise) -> Acquisition:
    """Return one noise readout that has exactly this covariance, made up of its Cholesky factor."""
    n = len(noise.covariance)
    samples = np.zeros((n, n + 1), np.complex64)  # a covariance wants more samples than coils
    samples[:, :n] = np.linalg.cholesky(noise.covariance.astype(np.complex128)) * math.sqrt(n)
    header = np.zeros(1, ACQUISITION_HEADER)[0]
    header["version"], header["flags"], header["sample_time_us"] = 1, Flag.NOISE, noise.dwell_us
    header["available_channels"] = header["active_channels"] = n
    header["number_of_samples"] = n + 1
    return Acquisition(header=header, data=samples)
