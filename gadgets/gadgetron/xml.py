"""Gadgetron's two XML dialects, read into one plain form.

Version 2 has root `<configuration>` with `<version>2</version>` and `<readers>`, `<writers>`,
`<stream>`; the legacy dialect has root `<gadgetronStreamConfiguration>` with everything directly
below it. Properties come as attributes or as child elements, and the value `name@gadget` stands
for the value of another gadget's property. What the names mean is not known here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ..errors import ConfigError

LEGACY = "gadgetronStreamConfiguration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One element of a stream."""

    tag: str
    classname: str
    properties: Mapping[str, str]
    inner: tuple["Node", ...] = ()  # the elements of an external node's <configuration>
    execute: str | None = None  # what an external node runs
    connect: bool = False  # an external node that is connected to


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A pipeline as it is written."""

    readers: tuple[str, ...]  # class names
    writers: tuple[str, ...]
    stream: tuple[Node, ...]
    libraries: tuple[str, ...]  # in which the classes are, in order
    problems: tuple[str, ...]  # what cannot be read; empty if all is well


def read(xml: str | bytes) -> Document:
    """Read a pipeline.

    Raises
    ------
    ConfigError
        If the text is not XML, or neither dialect. Smaller faults are listed in `problems`.
    """
    end = "\0" if isinstance(xml, str) else b"\0"
    try:
        root = ElementTree.fromstring(xml.rstrip(end))  # type: ignore[arg-type]
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also unknown encodings
        raise ConfigError(f"pipeline is not well-formed XML: {error}") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    problems: list[str] = []
    if root.tag == LEGACY:
        readers, writers = root.findall("reader"), root.findall("writer")
        nodes = [child for child in root if child.tag not in ("reader", "writer")]
    elif root.tag == "configuration" and (root.findtext("version") or "").strip() == "2":
        readers, writers = root.findall("readers/reader"), root.findall("writers/writer")
        nodes = list(root.iterfind("stream/*"))
    else:
        raise ConfigError(
            f"pipeline has root <{root.tag}>, expected <configuration> with <version>2</version>, "
            f"or <{LEGACY}>"
        )
    values = _Values(root, problems)
    return Document(
        readers=tuple(_text(node, "classname") for node in readers),
        writers=tuple(_text(node, "classname") for node in writers),
        stream=tuple(_node(node, values) for node in nodes),
        libraries=tuple(dict.fromkeys((dll.text or "").strip() for dll in root.iter("dll"))),
        problems=tuple(problems),
    )


class _Values:
    """The properties of every element, references resolved."""

    def __init__(self, root: Element, problems: list[str]) -> None:
        self._problems = problems
        self._raw = {
            element: _properties(element, problems)
            for element in root.iter()
            if element.find("property") is not None
        }
        self._by_place = {
            f"{key}@{_name(element)}": value
            for element, properties in self._raw.items()
            for key, value in properties.items()
        }

    def of(self, element: Element) -> dict[str, str]:
        properties = self._raw.get(element, {})
        return {key: self._resolve(element, key, value) for key, value in properties.items()}

    def _resolve(self, element: Element, key: str, value: str) -> str:
        seen: list[str] = []
        while "@" in value:
            if value in seen or value not in self._by_place:
                fault = "is a cycle" if value in seen else "is a property that no gadget has"
                self._problems.append(
                    f"gadget {_name(element)}, property {key}: the reference {value!r} {fault}"
                )
                return ""
            seen.append(value)
            value = self._by_place[value]
        return value


def _node(element: Element, values: _Values) -> Node:
    execute = element.find("execute")
    inner: Iterable[Element] = element.iterfind("configuration/*")
    return Node(
        tag=element.tag,
        classname=_text(element, "classname") or (element.get("class") or ""),
        properties=values.of(element),
        inner=tuple(_node(child, values) for child in inner),
        execute=None if execute is None else execute.get("name", ""),
        connect=element.find("connect") is not None,
    )


def _properties(node: Element, problems: list[str]) -> dict[str, str]:
    """Read both spellings: attributes name= value=, and children <name/> <value/>."""
    found: dict[str, str] = {}
    for element in node.findall("property"):
        name = (element.get("name") or _text(element, "name")).strip()
        texts = [element.get("value"), element.findtext("value")]
        given = [text for text in texts if text is not None]
        if not name or len(given) != 1:
            problems.append(
                f"gadget {_name(node)}: property {name!r} must have a name and one value, "
                f"got {len(given)} values"
            )
        elif name in found:
            problems.append(f"gadget {_name(node)}: property {name} is there twice")
        else:
            found[name] = given[0].strip()
    return found


def _name(element: Element) -> str:
    return _text(element, "name") or _text(element, "classname") or (element.get("class") or "")


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()
