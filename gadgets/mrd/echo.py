"""A readout's samples as they come, and as k-space has them: the echo in the middle."""

import numpy as np

from ..errors import GadgetError
from .geometry import Geometry
from .header_layouts import Flag, flags_of
from .items import Acquisition, Burst, Complex

PARTIAL = "lines of a partial echo"  # counted


def same_length(header: np.void, n_samples: int, expected: int) -> None:
    """Refuse a cut readout: zeros for its missing samples would look like a good image.

    Raises
    ------
    GadgetError
        If a line has not as many samples as the first of its contrast and set.
    """
    if n_samples != expected:
        raise GadgetError(
            f"acquisition {int(header['scan_counter'])} (ky "
            f"{int(header['kspace_encode_step_1'])}) has {n_samples} samples, "
            f"expected {expected} as the first line of its contrast and set"
        )


def centred(line: Acquisition | Burst, geometry: Geometry) -> Complex:
    """Return kx samples (..., coils, n), discards, reversal and asymmetry undone: echo at n // 2.

    n is the encoded matrix, or `n_x` where the oversampling was removed upstream. Discards of such
    a line are not obeyed: they were Gadgetron's own zero padding of an asymmetric echo, into which
    its transform has spread signal since (its own images lack it, by some percent).

    Raises
    ------
    GadgetError
        If the samples do not fit the encoded matrix.
    """
    header, data = line.header, line.data
    n_samples = data.shape[-1]
    centre = int(header["center_sample"])
    pre, post = int(header["discard_pre"]), int(header["discard_post"])
    if n_samples == geometry.n_x < geometry.encoded[0]:
        pre = post = 0
    if pre + post >= n_samples:
        raise GadgetError(
            f"acquisition {int(header['scan_counter'])} has {n_samples} samples; discard_pre "
            f"and discard_post take {pre} and {post} of them: none is left"
        )
    full = n_samples - pre - post >= (
        geometry.encoded[0] if n_samples > geometry.n_x else geometry.n_x
    )
    # some senders leave it at that of the full echo, others never set it
    if centre >= n_samples or (centre == 0 and full):
        centre = n_samples // 2
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
    padded = np.zeros((*data.shape[:-1], n), dtype=np.complex64)
    padded[..., max(start, 0) : max(start, 0) + kept.shape[-1]] = kept
    return padded
