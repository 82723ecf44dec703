"""Prewhitening from the noise readouts of the same stream."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from mnet.prewhiten import gadgetron_scale, noise_covariance, whitening_matrix

from .errors import GadgetError
from .gadget import Gadget, Scan
from .items import Acquisition, Complex, Flag, Item

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NoiseAdjust(Gadget):
    """Give every coil unit, uncorrelated noise; without a noise scan lines pass unchanged.

    The matrix is fixed at the first line that is not noise, so that a scan has one scale.
    """

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Consume noise readouts and whiten the others."""
        noise: list[Acquisition] = []
        matrix: Complex | None = None
        started = False
        for item in items:
            if not isinstance(item, Acquisition):
                yield item
            elif int(item.head["flags"]) & Flag.NOISE:
                if started:
                    scan.counts["noise readouts after the first line"] += 1
                else:
                    noise.append(item)
            else:
                if not started and noise:
                    matrix = _matrix(noise, item, scan)
                elif not started and scan.geometry.noise_dependency is not None:
                    _warn_of_missing_noise(scan)
                started = True
                yield item if matrix is None else replace(item, data=matrix @ item.data)


def _warn_of_missing_noise(scan: Scan) -> None:
    scan.counts["scans without the noise that they refer to"] += 1
    log.warning(
        "the header refers to noise measurement %s, which is not stored here, and the stream has "
        "no noise readouts: the lines are not whitened",
        scan.geometry.noise_dependency,
    )


def _matrix(noise: list[Acquisition], line: Acquisition, scan: Scan) -> Complex:
    """Return the whitening matrix, scaled to the bandwidth of the lines it is applied to."""
    dwell, dwell_noise = (float(acq.head["sample_time_us"]) for acq in (line, noise[0]))
    scale = 1.0
    if dwell > 0 and dwell_noise > 0:
        bandwidth = scan.geometry.relative_receiver_noise_bandwidth
        scale = gadgetron_scale(dwell, dwell_noise, bandwidth)
    samples = np.concatenate([acq.data for acq in noise], axis=1)
    try:
        covariance = noise_covariance(torch.from_numpy(samples))
        matrix: Complex = whitening_matrix(covariance, scale).numpy().astype(np.complex64)
    except ValueError as error:
        raise GadgetError(f"the noise scan cannot whiten these lines: {error}") from error
    return matrix
