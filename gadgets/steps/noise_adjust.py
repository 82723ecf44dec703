"""Prewhitening, with the noise readouts of the same stream or those of an earlier measurement."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..errors import GadgetError, place_of
from ..files.noise_store import Noise, Unusable, matched, to_json
from ..mrd.header_layouts import Flag, flags_of
from ..mrd.items import Acquisition, Burst, Complex, Item
from ..mrd.noise import NoiseReadouts, whitening_of
from ..pipeline.gadget import Gadget
from ..pipeline.scan import Scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NoiseAdjust(Gadget):
    """Give every coil unit, uncorrelated noise.

    Where the header names a noise measurement that is stored here, its covariance is used, coils
    matched by label; else that of the stream's own noise readouts; without either, lines pass
    unchanged. What the readouts of a stream give is stored under the stream's measurement id.
    The matrix is fixed at the first line that is not noise, so that a scan has one scale.
    """

    takes_bursts = True

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Consume noise readouts and whiten the others."""
        noise = NoiseReadouts()
        matrix: Complex | None = None
        started = False
        for item in items:
            if not isinstance(item, Acquisition | Burst):
                yield item
            elif isinstance(item, Acquisition) and flags_of(item.header) & Flag.NOISE:
                if started:
                    scan.counts["noise readouts after the first line"] += 1
                else:
                    noise.add(item)
            else:
                if not started:
                    matrix = _matrix(noise, item, scan)
                    started = True
                yield item if matrix is None else replace(item, data=_whitened(matrix, item.data))
        if noise and not started:  # a noise measurement on its own, for later scans
            _store(*noise.measured(), scan)


def _whitened(matrix: Complex, data: Complex) -> Complex:
    """Mix coils, by torch: a host keeps it to one thread, while those of numpy's BLAS wait busily.

    On two cores that delayed masks beside a reconstruction from 10 to 250 ms.
    """
    samples = torch.from_numpy(np.require(data, requirements=["C", "W"]))
    mixed: Complex = (torch.from_numpy(matrix) @ samples).numpy()
    return mixed


def _matrix(readouts: NoiseReadouts, line: Acquisition | Burst, scan: Scan) -> Complex | None:
    """Return the whitening matrix, scaled to the bandwidth of the lines it is applied to."""
    stored = _stored(line.data.shape[-2], scan)
    if stored is not None:
        scan.counts["noise readouts beside stored noise"] += readouts.n
        covariance, dwell_noise = stored.covariance, stored.dwell_us
        if scan.record is not None:  # the lines alone could not be reconstructed again
            scan.record.noise(to_json(stored))
    elif readouts:
        covariance, dwell_noise = readouts.measured()
        try:
            _store(covariance, dwell_noise, scan)
        except GadgetError as error:  # this scan has what it needs
            scan.counts["noise measurements that could not be stored"] += 1
            log.warning("the noise is not stored: %s", place_of(error))
    else:
        return None
    dwell = float(line.header["sample_time_us"])
    bandwidth = scan.geometry.relative_receiver_noise_bandwidth
    return whitening_of(covariance, dwell_noise, dwell, bandwidth)


def _stored(n_coils: int, scan: Scan) -> Noise | None:
    """Return the noise that the header names, in the order of the scan's coils, if usable."""
    dependency = scan.geometry.noise_dependency
    if dependency is None:
        return None
    labels = scan.geometry.channel_labels
    noise = None if scan.noise is None else scan.noise.get(dependency)
    try:
        if noise is None:
            raise Unusable("it is not stored here")
        if len(labels) != n_coils:
            raise Unusable(f"the header labels {len(labels)} of {n_coils} coils")
        return _matched(noise, labels)
    except Unusable as reason:  # as in Gadgetron the scan goes on, though not in silence
        scan.counts["scans without the noise that they refer to"] += 1
        log.warning("the noise measurement that the header names is not used: %s", reason)
        return None


def _matched(noise: Noise, labels: Sequence[str]) -> Noise:
    """Return the noise of these coils; Unusable says numbers alone: labels are a header's."""
    try:
        return matched(noise, labels)
    except Unusable as error:
        n_others = len(set(labels) - set(noise.labels))
        raise Unusable(
            f"{n_others} of the scan's {len(labels)} coil labels are not among the "
            f"{len(noise.labels)} of the stored noise, {len(labels) - len(set(labels))} are there "
            "twice"
        ) from error


def _store(covariance: Complex, dwell_us: float, scan: Scan) -> None:
    """Keep a covariance for scans that name this one; GadgetError if the disk does not take it."""
    labels, name = scan.geometry.channel_labels, scan.geometry.measurement_id
    if scan.noise is None or not name:
        return
    if not all(labels) or not len(set(labels)) == len(labels) == len(covariance):
        log.info("the noise is not stored: the header has no label of its own for every coil")
        return
    scan.noise.put(name, Noise(covariance=covariance, dwell_us=dwell_us, labels=labels))
