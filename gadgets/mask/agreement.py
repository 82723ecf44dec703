"""Do a sequence's hello and its MRD header describe one scan? Both ends of the contract ask."""

from ..mrd.geometry import Geometry
from .messages import Hello


def disagreement(hello: Hello, geometry: Geometry) -> str:
    """Say where a hello contradicts the MRD header, "" where it does not."""
    if hello.center != geometry.center:
        return f"hello has center {hello.center}, the MRD header {geometry.center}"
    said, header = (hello.ky_min, hello.ky_max), (geometry.ky_min, geometry.ky_max)
    if said != header:
        return (
            f"hello has ky_min {said[0]} and ky_max {said[1]}, the MRD header {header[0]} and "
            f"{header[1]}"
        )
    outside = sorted(set(hello.acquirable) - set(geometry.limit_counters.tolist()))
    if outside:
        return f"hello has acquirable lines {outside[:5]} outside the limits of the MRD header"
    return ""
