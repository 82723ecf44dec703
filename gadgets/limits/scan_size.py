"""Is a scan small enough? Asked at its header, before anything is made room for."""

from ..errors import GadgetError, HeaderError
from ..mrd.geometry import Geometry
from .settings import Limits

# An image's lines, as (coils, x, ky) of 8 bytes, are there several times: as they come, on their
# way to the worker, as coil maps, as what these are estimated from, and as what is solved for.
COPIES = 6
_WHERE = "docs/deployment.md, Limits, says how to raise it"


def check_header(geometry: Geometry, limits: Limits) -> None:
    """Raise HeaderError for a scan that is larger than a host has room for."""
    largest = max(geometry.encoded[:2])
    if largest > limits.matrix:
        raise HeaderError(
            f"encodedSpace: {geometry.encoded[0]} x {geometry.encoded[1]}, expected at most "
            f"{limits.matrix} along each axis; {_WHERE} (--max-matrix)"
        )
    if geometry.n_coils is not None:
        why = _too_large(geometry, geometry.n_coils, limits)
        if why:
            raise HeaderError(f"receiverChannels: {why}")


def check_line(geometry: Geometry, shape: tuple[int, ...], limits: Limits) -> None:
    """Raise GadgetError for lines (..., coils, samples) that a host has no room for."""
    n_coils, n_samples = shape[-2:]
    if n_samples > limits.samples:
        raise GadgetError(
            f"an acquisition has {n_samples} samples, expected at most {limits.samples}; {_WHERE} "
            "(--max-samples)"
        )
    why = "" if n_coils == geometry.n_coils else _too_large(geometry, n_coils, limits)
    if why:
        raise GadgetError(f"an acquisition has too many channels: {why}")


def _too_large(geometry: Geometry, n_coils: int, limits: Limits) -> str:
    """Say why images of so many coils have no room, "" where they have."""
    if n_coils > limits.coils:
        return f"{n_coils} coils, expected at most {limits.coils}; {_WHERE} (--max-coils)"
    gigabytes = 8e-9 * COPIES * n_coils * geometry.n_x * geometry.n_ky
    if gigabytes > limits.memory_gb:
        return (
            f"{n_coils} coils of {geometry.n_x} x {geometry.n_ky} need about {gigabytes:.3g} GB, "
            f"expected at most {limits.memory_gb:g} GB; {_WHERE} (--max-memory-gb)"
        )
    return ""
