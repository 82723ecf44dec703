"""Image attributes as text: a flat mapping on our side, ismrmrdMeta XML on the wire."""

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from ..errors import ProtocolError

MASK_ROLE = "SamplingMask"  # DataRole of images that show a mask
# Characters that XML 1.0 cannot carry, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def meta_to_xml(meta: Mapping[str, str]) -> bytes:
    r"""Write attributes as ismrmrdMeta; no attributes give no bytes.

    A backslash separates several values of one name, as `meta_from_xml` joins them. Characters
    that XML cannot carry become U+FFFD.
    """
    if not meta:
        return b""
    root = ElementTree.Element("ismrmrdMeta")
    for name, value in meta.items():
        entry = ElementTree.SubElement(root, "meta")
        ElementTree.SubElement(entry, "name").text = _NOT_XML.sub("\ufffd", name)
        for one in value.split("\\"):
            ElementTree.SubElement(entry, "value").text = _NOT_XML.sub("\ufffd", one)
    # ASCII with character references, because some readers of stored images take nothing else.
    body: bytes = ElementTree.tostring(root, encoding="us-ascii")
    return b"<?xml version='1.0' encoding='UTF-8'?>\n" + body


def meta_from_xml(xml: bytes) -> dict[str, str]:
    r"""Read ismrmrdMeta; several values of one name are joined by a backslash, as in DICOM.

    A trailing NUL, which C++ writers count in, is dropped. Raises ProtocolError if the text is
    something else.
    """
    xml = xml.rstrip(b"\0")
    if not xml:
        return {}
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, LookupError) as error:
        raise ProtocolError(f"image attributes are no XML: {error}; got {xml[:60]!r}") from error
    if root.tag != "ismrmrdMeta":
        raise ProtocolError(f"image attributes: expected <ismrmrdMeta>, got <{root.tag}>")
    values: dict[str, list[str]] = {}
    for entry in root.iterfind("meta"):
        texts = [value.text or "" for value in entry.iterfind("value")]
        values.setdefault(entry.findtext("name") or "", []).extend(texts)
    return {name: "\\".join(texts) for name, texts in values.items()}
