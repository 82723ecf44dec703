"""What of an MRD header can be replaced where it is wrong, by name: `--header KEY=VALUE`."""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .geometry import find, parse, serialise

Refs = NDArray[np.uint16]
LOOPS = ("average", "slice", "contrast", "phase", "repetition", "set")
REPEATS = "repeats"  # of no header: what lines count that come several times alike
_KY = {"ky_min": "minimum", "ky_max": "maximum", "ky_center": "center"}
_SPACES = {
    "encoded": ("encodedSpace", "matrixSize"),
    "recon": ("reconSpace", "matrixSize"),
    "encoded_fov": ("encodedSpace", "fieldOfView_mm"),
    "recon_fov": ("reconSpace", "fieldOfView_mm"),
}
HELP = {
    "ky_min": "smallest ky counter",
    "ky_max": "largest ky counter",
    "ky_center": "ky counter of the centre of k-space",
    "averages": "how many averages there are",
    "encoded": "encoded matrix, XxY or XxYxZ, x with readout oversampling",
    "recon": "matrix of the image, XxY or XxYxZ",
    "encoded_fov": "encoded field of view in mm, XxY or XxYxZ",
    "recon_fov": "field of view of the image in mm, XxY or XxYxZ",
    "coils": "receiver channels",
    "trajectory": "cartesian, where the header says otherwise",
    REPEATS: "contrast, average, repetition, set or phase: what lines count that come several "
    "times with equal counters",
}
_ORDER = [f"kspace_encoding_step_{n}" for n in range(3)] + list(LOOPS) + ["segment"]


def read_values(given: Sequence[str]) -> dict[str, str]:
    """Take KEY=VALUE apart; ConfigError for a key that is not known or a value that cannot be."""
    values: dict[str, str] = {}
    for one in given:
        key, _, value = one.partition("=")
        if key not in HELP or not value:
            raise ConfigError(f"--header {one!r}: expected KEY=VALUE with {', '.join(HELP)}")
        if key in _SPACES:
            parts = value.lower().split("x")
            right = len(parts) in (2, 3) and all(_is_positive(part) for part in parts)
        elif key == REPEATS:
            right = value in LOOPS and value != "slice"
        else:
            right = key == "trajectory" or value.isdecimal()
        if not right:
            raise ConfigError(f"--header {one!r}: {key} is {HELP[key]}")
        values[key] = value
    return values


def with_values(xml: bytes, values: Mapping[str, str]) -> bytes:
    """Replace values of a header and keep all else; HeaderError where it is none.

    Keys are those of `HELP`. Whether the result can be a scan is for `Geometry.parse` to say.
    """
    root = parse(xml)
    encoding = find(root, "encoding")
    for key, value in values.items():
        if key in _KY:
            _set(_limit(encoding, "kspace_encoding_step_1"), _KY[key], value)
        elif key in _SPACES:
            space = _child(_child(encoding, _SPACES[key][0]), _SPACES[key][1])
            for axis, number in zip("xyz", value.lower().split("x"), strict=False):
                _set(space, axis, number)
        elif key == "averages":
            _set(_limit(encoding, "average"), "maximum", str(int(value) - 1))
        elif key == "coils":
            _set(_child(root, "acquisitionSystemInformation"), "receiverChannels", value)
        elif key == "trajectory":
            _set(encoding, "trajectory", value)
    return serialise(root)


def with_limits(xml: bytes, limits: Mapping[str, tuple[int, int, int]]) -> bytes:
    """Set limits (minimum, maximum, center) by their names in the first encoding space."""
    root = parse(xml)
    encoding = find(root, "encoding")
    for name, numbers in limits.items():
        for part, number in zip(("minimum", "maximum", "center"), numbers, strict=True):
            _set(_limit(encoding, name), part, str(number))
    return serialise(root)


def with_encoding_first(xml: bytes, number: int) -> bytes:
    """Move one encoding space before the others, where readers look for the imaging one."""
    root = parse(xml)
    spaces = root.findall("encoding")
    at = list(root).index(spaces[0])
    root.remove(spaces[number])
    root.insert(at, spaces[number])
    return serialise(root)


def moved_first(spaces: Refs, number: int) -> Refs:
    """Return what `encoding_space_ref` becomes when a space is moved before the others."""
    return np.where(spaces == number, 0, spaces + (spaces < number)).astype(np.uint16)


def _limit(encoding: Element, name: str) -> Element:
    """Return a limit; a new one stands where the schema wants it, with nothing but zeros."""
    limits = encoding.find("encodingLimits")
    if limits is None:
        limits = Element("encodingLimits")
        before = [i for i, one in enumerate(encoding) if one.tag in ("encodedSpace", "reconSpace")]
        encoding.insert(max(before, default=-1) + 1, limits)
    found = limits.find(name)
    if found is None:
        found = Element(name)
        earlier = _ORDER[: _ORDER.index(name)]
        limits.insert(sum(one.tag in earlier for one in limits), found)
        for part in ("minimum", "maximum", "center"):
            SubElement(found, part).text = "0"
    return found


def _child(parent: Element, name: str) -> Element:
    found = parent.find(name)
    return SubElement(parent, name) if found is None else found


def _set(parent: Element, name: str, value: str) -> None:
    _child(parent, name).text = value


def _is_positive(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal() and float(text) > 0
