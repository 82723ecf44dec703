"""The readout transform: kx samples as they come to x in the reconstructed field of view."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import GadgetError
from ..mrd.geometry import Geometry
from ..mrd.header_layouts import Flag, flags_of, is_imaging
from ..mrd.items import Acquisition, Burst, Complex, Item
from ..pipeline.gadget import Gadget
from ..pipeline.scan import Scan

OneOrMore = TypeVar("OneOrMore", bound=Acquisition | Burst)


@dataclass(frozen=True, kw_only=True)
class RemoveReadoutOversampling(Gadget):
    """Transform every line along the readout and crop the oversampling, which is exact there.

    Navigators and other readouts that belong to no image pass as they came: they need not fit the
    encoded matrix. Imaging lines of one contrast and set must have as many samples as the first.
    """

    takes_bursts = True

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Yield lines in hybrid space."""
        expected: dict[tuple[int, int], int] = {}
        for item in items:
            if isinstance(item, Acquisition | Burst) and _fits(item):
                if is_imaging(flags_of(item.header)):
                    kind = int(item.header["contrast"]), int(item.header["set"])
                    _same_length(item, expected.setdefault(kind, item.data.shape[-1]))
                yield to_hybrid(item, scan.geometry)
            else:
                yield item


def _same_length(line: Acquisition | Burst, expected: int) -> None:
    """Refuse a cut readout: zeros for its missing samples would look like a good image."""
    if line.data.shape[-1] != expected:
        raise GadgetError(
            f"acquisition {int(line.header['scan_counter'])} (ky "
            f"{int(line.header['kspace_encode_step_1'])}) has {line.data.shape[-1]} samples, "
            f"expected {expected} as the first line of its contrast and set"
        )


def _fits(line: Acquisition | Burst) -> bool:
    if int(line.header["encoding_space_ref"]) != 0:
        return False
    flags = flags_of(line.header)
    return is_imaging(flags & ~Flag.CALIBRATION)  # reference lines serve for maps


def to_hybrid(line: OneOrMore, geometry: Geometry) -> OneOrMore:
    """Return lines in image space along x, `geometry.n_x` samples; no-op if it already is.

    Raises
    ------
    GadgetError
        If the readout does not fit the encoded matrix.
    """
    if line.hybrid:
        return line
    kx = centred(line, geometry)
    if not kx.flags.carray:  # torch wants to own it
        kx = kx.copy()
    return replace(line, data=_about_the_centre(kx, geometry.n_x), hybrid=True)


def _about_the_centre(kx: Complex, n_x: int) -> Complex:
    """Return the `n_x` samples about the centre of `inverse_fourier` along the rows.

    A shift before a transform is a phase after it, and the shift after it a choice of what to keep:
    a third of the time goes, and these run for every line of a scan.
    """
    x = torch.fft.ifft(torch.from_numpy(kx), norm="forward")
    phase, before = _phase(kx.shape[-1], n_x), n_x // 2
    kept = torch.empty((*kx.shape[:-1], n_x), dtype=x.dtype)
    torch.mul(x[..., kx.shape[-1] - before :], phase[:before], out=kept[..., :before])
    torch.mul(x[..., : n_x - before], phase[before:], out=kept[..., before:])
    hybrid: Complex = kept.numpy()
    return hybrid


@lru_cache(maxsize=8)
def _phase(n: int, n_x: int) -> Tensor:
    """Return what the first half of `n` samples, moved behind the second, does to `n_x` outputs.

    With the scale of an orthonormal transform, so that nothing else is left to multiply with.
    """
    at = np.arange(n_x) - n_x // 2
    phase = np.exp(-2j * np.pi * (n // 2) / n * at) / np.sqrt(n)
    return torch.from_numpy(phase.astype(np.complex64))


def centred(line: Acquisition | Burst, geometry: Geometry) -> Complex:
    """Return kx samples (..., coils, n), discards, reversal and asymmetry undone: echo at n // 2.

    n is the encoded matrix, or `n_x` where the oversampling was removed upstream. Discards of such
    a line are not obeyed: they were Gadgetron's own zero padding of an asymmetric echo, into which
    its transform has spread signal since (its own images lack it, by some percent).
    """
    header, data = line.header, line.data
    n_samples = data.shape[-1]
    centre = int(header["center_sample"])
    if centre >= n_samples:  # some senders leave it at that of the full echo
        centre = n_samples // 2
    pre, post = int(header["discard_pre"]), int(header["discard_post"])
    if n_samples == geometry.n_x < geometry.encoded[0]:
        pre = post = 0
    if pre + post >= n_samples:
        raise GadgetError(
            f"acquisition {int(header['scan_counter'])} has {n_samples} samples; discard_pre "
            f"and discard_post take {pre} and {post} of them: none is left"
        )
    if flags_of(header) & Flag.REVERSE:
        data, centre, pre, post = data[..., ::-1], n_samples - 1 - centre, post, pre
    data, centre = data[..., pre : n_samples - post], centre - pre
    n = geometry.encoded[0] if n_samples > geometry.n_x else geometry.n_x
    start = n // 2 - centre
    if data.shape[-1] == n and start == 0:
        return data
    kept = data[..., max(-start, 0) : max(n - start, 0)]
    # a reversed even readout overhangs by its one unpaired sample; anything more is a wrong header
    if data.shape[-1] - kept.shape[-1] > 1 or not kept.shape[-1]:
        raise GadgetError(
            f"acquisition {int(header['scan_counter'])} has {n_samples} samples with center_sample "
            f"{int(header['center_sample'])}, which do not fit the encoded matrix of {n}"
        )
    full = np.zeros((*data.shape[:-1], n), dtype=np.complex64)
    full[..., max(start, 0) : max(start, 0) + kept.shape[-1]] = kept
    return full
