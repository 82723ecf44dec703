"""What an MRD header says of a person, a study, a place or a day, taken out of it.

Only what a reconstruction reads is kept where text is free: a name may stand in any of it. What
follows a header is left as it is: readouts have a time of day, waveforms a pulse.
"""

import hashlib
import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from ..mrd.geometry import parse, serialise, text

_GONE = ("subjectInformation", "studyInformation")
_KEPT_OF_MEASUREMENT = ("measurementID", "patientPosition", "measurementDependency", "sequenceName")
_GONE_OF_SYSTEM = ("institutionName", "stationName", "deviceID", "deviceSerialNumber")
_OURS = "mnet_"  # user parameters that this project defines
_NUMBERS = ("userParameterLong", "userParameterDouble")
_PERSONAL = re.compile(r"patient|subject|birth|weight|height|study|date|\b(age|sex|.*id)\b", re.I)


def without_identity(xml: bytes) -> bytes:
    """Remove what a header says of a person; one that says nothing stays as it is.

    Ids of measurements, which often hold a patient's, become their hashes: a scan still finds its
    noise measurement. Whoever can guess an id can tell its hash, too. Raises HeaderError where the
    text is no MRD header.
    """
    root = parse(xml)
    found = list(_personal(root))
    for parent, element in found:
        parent.remove(element)
    ids = [one for one in root.iterfind("measurementInformation//measurementID") if one.text]
    hashed = [_hashed(one.text or "") for one in ids]
    changed = [one.text != new for one, new in zip(ids, hashed, strict=True)]
    for one, new in zip(ids, hashed, strict=True):
        one.text = new
    return serialise(root) if found or any(changed) else xml


def _personal(root: Element) -> Iterator[tuple[Element, Element]]:
    """Give every element to remove, and its parent."""
    for child in list(root):
        if child.tag in _GONE:
            yield root, child
    for group in root.iterfind("measurementInformation"):
        for child in list(group):
            if child.tag not in _KEPT_OF_MEASUREMENT:
                yield group, child
    for group in root.iterfind("acquisitionSystemInformation"):
        for child in list(group):
            if child.tag in _GONE_OF_SYSTEM:
                yield group, child
    for group in root.iter("userParameters"):
        for child in list(group):
            if _is_personal(child):
                yield group, child


def _is_personal(parameter: Element) -> bool:
    """Say whether a user parameter may name anyone: free text, or a number of a person."""
    name = text(parameter, "name") or ""
    if name.startswith(_OURS):
        return False
    value = text(parameter, "value") or ""
    return parameter.tag not in _NUMBERS or not _is_number(value) or bool(_PERSONAL.search(name))


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _hashed(measurement_id: str) -> str:
    """Return the hash of an id; what is one already stays."""
    known = measurement_id.startswith("hash-")
    digest = hashlib.sha256(measurement_id.strip().encode()).hexdigest()[:16]
    return measurement_id if known else f"hash-{digest}"
