"""From noise readouts to the matrix that whitens lines: one rule, for streams and training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mnet.physics.prewhiten import covariance_of, scale_for, whitening_matrix

from ..errors import GadgetError
from .items import Acquisition, Complex


@dataclass(slots=True)
class NoiseReadouts:
    """What is known of the noise, added up as its readouts come: the first line waits for nothing.

    Falsy as long as there is none.
    """

    n: int = 0  # readouts
    _n_samples: int = 0
    _products: Tensor | None = None  # (coils, coils), the sum of n n^H over samples
    _dwell_us: float = 0.0

    def add(self, readout: Acquisition) -> None:
        """Take in one readout."""
        samples = torch.from_numpy(np.require(readout.data, requirements=["C", "W"]))
        products = samples @ samples.mH
        if self._products is None:
            self._products = products
            self._dwell_us = max(0.0, float(readout.header["sample_time_us"]))
        else:
            self._products += products
        self.n += 1
        self._n_samples += samples.shape[1]

    def __bool__(self) -> bool:
        """Say whether there is any."""
        return self.n > 0

    def measured(self) -> tuple[Complex, float]:
        """Return the covariance (coils, coils) and the dwell time (us; 0 where unknown).

        Raises
        ------
        GadgetError
            If they could not whiten any lines.
        """
        if self._products is None:
            raise GadgetError("the noise scan cannot whiten these lines: it has no readout")
        try:
            covariance = covariance_of(self._products, self._n_samples)
            whitening_matrix(covariance)
        except ValueError as error:
            raise GadgetError(f"the noise scan cannot whiten these lines: {error}") from error
        found: Complex = covariance.numpy()
        return found, self._dwell_us


def measured(readouts: Sequence[Acquisition]) -> tuple[Complex, float]:
    """Return what `NoiseReadouts` says of readouts that are all there."""
    noise = NoiseReadouts()
    for readout in readouts:
        noise.add(readout)
    return noise.measured()


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
