"""A header that names a patient wherever ISMRMRD's schema has room for text."""

from xml.etree.ElementTree import Element, SubElement

from gadgets.mrd.geometry import parse, serialise

_TEXTS = {
    "subjectInformation": ("patientName", "patientID", "patientBirthdate"),
    "studyInformation": ("studyID", "referringPhysicianName", "studyDescription"),
    "measurementInformation": (
        "measurementID",
        "seriesDescription",
        "protocolName",
        "seriesInstanceUIDRoot",
    ),
    "acquisitionSystemInformation": ("institutionName", "stationName", "deviceID"),
}
MARK = "Vornamesdottir"
PERSONAL = tuple(
    f"{MARK}-{name}" for names in (*_TEXTS.values(), ("userString", "userLong")) for name in names
)


def personal_header(xml: bytes, token: str = "token-1") -> bytes:
    """Fill a header with PERSONAL, each of them once; keep its numbers, and a scan token."""
    root = parse(xml)
    for place, names in _TEXTS.items():
        group = root.find(place)
        if group is None:
            group = Element(place)
            root.insert(0, group)
        for name in names:
            old = group.find(name)
            one = SubElement(group, name) if old is None else old
            one.text = f"{MARK}-{name}"
    user = SubElement(root, "userParameters")
    for kind, name, value in (
        ("userParameterLong", "tSegments", "7"),
        ("userParameterLong", "tPatientNumber", "4711"),
        ("userParameterLong", "tText", f"{MARK}-userLong"),
        ("userParameterString", "tFree", f"{MARK}-userString"),
        ("userParameterString", "mnet_scan_token", token),
    ):
        one = SubElement(user, kind)
        SubElement(one, "name").text, SubElement(one, "value").text = name, value
    return serialise(root)
