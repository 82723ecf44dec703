"""From noise readouts to the matrix that whitens lines: one rule, for streams and training."""

from collections.abc import Sequence

import numpy as np
import torch

from mnet.physics.prewhiten import noise_covariance, scale_for, whitening_matrix

from ..errors import GadgetError
from .items import Acquisition, Complex


def measured(readouts: Sequence[Acquisition]) -> tuple[Complex, float]:
    """Return covariance (coils, coils) and dwell time (us; 0 where unknown) of noise readouts.

    Raises
    ------
    GadgetError
        If they could not whiten any lines.
    """
    samples = np.concatenate([readout.data for readout in readouts], axis=1)
    try:
        covariance: Complex = noise_covariance(torch.from_numpy(samples)).numpy()
        whitening_matrix(torch.from_numpy(covariance))
    except ValueError as error:
        raise GadgetError(f"the noise scan cannot whiten these lines: {error}") from error
    return covariance, max(0.0, float(readouts[0].header["sample_time_us"]))


def whitening_of(
    covariance: Complex, noise_dwell_us: float, dwell_us: float, bandwidth: float
) -> Complex:
    """Return the matrix (coils, coils) for lines of a dwell time; GadgetError if there is none."""
    try:
        matrix = whitening_matrix(
            torch.from_numpy(covariance), scale_for(dwell_us, noise_dwell_us, bandwidth)
        )
    except ValueError as error:
        raise GadgetError(f"the noise scan cannot whiten these lines: {error}") from error
    whitening: Complex = matrix.numpy().astype(np.complex64)
    return whitening
