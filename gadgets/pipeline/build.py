"""Pipelines: Gadgetron's XML, version 2 or legacy, to a tuple of gadgets.

Two forms are known. Ours: stock nodes that we know, then one `<external>` that executes
`gadgets.external` and whose `<configuration>` lists our gadgets in order:

    <gadget class="PredictMask"><property name="acceleration" value="4"/></gadget>

Gadgetron's: stock nodes alone, from lines to images, such as its `default.xml`. Only classes of the
catalogue and of `gadgets.gadgetron.classes` can be named. Unknown classes, properties
and values fail at load, all of them listed at once.
"""

import importlib.resources
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from ..errors import ConfigError
from ..gadgetron import classes as gadgetron_classes
from ..gadgetron.xml import Node, read
from ..mrd.items import Acquisition, Image, Waveform
from .catalogue import OURS, Catalogue, step
from .chain import Pipeline, Stream
from .gadget import Gadget
from .properties import annotations, build
from .readers_writers import LIBRARIES, READERS, WRITERS


def load(name: str, folder: Path | None = None, *, extra: Path | None = None) -> str:
    """Return the XML text of a pipeline by its file name.

    Looks in `extra` first, then in `folder`, by default that of the shipped ones, and not below
    them. Raises ConfigError for any other name, and a file that cannot be read.
    """
    folder = folder or Path(str(importlib.resources.files("xml_configs")))
    places = [place for place in (folder, extra) if place is not None]
    known = {path.name: path for place in places for path in place.glob("*.xml")}
    if name not in known:
        raise ConfigError(f"no pipeline {name!r}, expected one of {', '.join(sorted(known))}")
    try:
        return known[name].read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"pipeline {name!r} cannot be read: {error}") from error


def parse(xml: str | bytes, catalogue: Catalogue = OURS) -> Pipeline:
    """Build the gadgets of a pipeline; ConfigError as `parse_stream`."""
    return parse_stream(xml, catalogue).gadgets


def parse_stream(xml: str | bytes, catalogue: Catalogue = OURS) -> Stream:
    """Build the gadgets of a pipeline from a catalogue, and say what it reads and writes.

    Where no readers or no writers are listed, it reads lines and waveforms and writes images.

    Raises
    ------
    ConfigError
        If the text is not XML, of neither dialect, or names anything unknown.
    """
    document = read(xml)
    problems = list(document.problems)
    reads = _known("reader", document.readers, READERS, problems)
    writes = _known("writer", document.writers, WRITERS, problems)
    libraries = [name for name in document.libraries if name not in LIBRARIES]
    if libraries:
        problems.append(
            f"libraries not known to this host: {', '.join(map(repr, libraries))}; it knows "
            f"{', '.join(LIBRARIES)}"
        )
    gadgets: list[Gadget] = []
    stage: str | None = gadgetron_classes.LINES  # None where it cannot be told any more
    for node in document.stream:
        try:
            gadgets += _external(node, catalogue) if node.tag == "external" else _gadgetron(node)
            stage = _stage(node, stage)
        except ConfigError as error:
            problems.append(str(error))
            stage = None
    strange = [n.classname for n in document.stream if n.tag == "gadget" and not _is_gadgetron(n)]
    if strange:
        problems.append(
            f"gadgets not known to this host: {', '.join(map(repr, strange))}; it knows "
            f"{', '.join(gadgetron_classes.GADGETRON_CLASSES)}, "
            "and our own gadgets inside <external>"
        )
    if not document.stream:
        problems.append("the stream is empty")
    elif stage not in gadgetron_classes.IMAGES | {gadgetron_classes.LINES, None}:
        problems.append(f"the stream ends with {stage}, which no writer takes")
    if problems:
        raise ConfigError("; ".join(problems))
    return Stream(
        gadgets=tuple(gadgets),
        reads=reads or frozenset({Acquisition, Waveform}),
        writes=writes or frozenset({Image}),
        own=catalogue.hashes(gadgets),
    )


def configure(
    xml: str, parameters: Mapping[str, str], catalogue: Catalogue = OURS
) -> tuple[str, str]:
    """Set properties of the gadgets inside a pipeline's external node.

    A parameter is a property that one of the gadgets has, or `Class.property`. Returns the pipeline
    and a sentence on parameters that no gadget has, "" where there are none: a scanner's protocol
    may carry parameters of other programs.

    Raises
    ------
    ConfigError
        If more than one gadget has such a property; all of them are listed at once.
    """
    if not parameters:
        return xml, ""
    root = ElementTree.fromstring(xml)
    places = {
        (node.get("class", ""), name): node
        for node in root.iterfind("stream/external/configuration/gadget")
        for name in annotations(catalogue.kind(node.get("class", "")))
    }
    problems, strange = [], []
    for key, value in parameters.items():
        found = [place for place in places if key in (place[1], ".".join(place))]
        if len(found) == 1:
            _set_property(places[found[0]], found[0][1], value)
        elif found:
            problems.append(f"{key} ({len(found)} gadgets have it)")
        else:
            strange.append(key)
    known = ", ".join(sorted(".".join(place) for place in places))
    if problems:
        raise ConfigError(
            f"parameters that do not belong to one gadget: {', '.join(problems)}; known: {known}"
        )
    unknown = f"parameters that the pipeline does not know: {', '.join(strange)}; it knows {known}"
    return ElementTree.tostring(root, encoding="unicode"), unknown if strange else ""


def _set_property(gadget: ElementTree.Element, name: str, value: str) -> None:
    for old in gadget.findall("property"):
        if name in (old.get("name"), (old.findtext("name") or "").strip()):
            gadget.remove(old)
    ElementTree.SubElement(gadget, "property", name=name, value=value)


def _known(
    kind: str, names: Iterable[str], table: Mapping[str, type], problems: list[str]
) -> frozenset[type]:
    problems += [
        f"unknown {kind} class {name!r}, expected one of {', '.join(table)}"
        for name in names
        if name not in table
    ]
    return frozenset(table[name] for name in names if name in table)


def _is_gadgetron(node: Node) -> bool:
    return node.tag == "gadget" and node.classname in gadgetron_classes.GADGETRON_CLASSES


def _stage(node: Node, stage: str | None) -> str | None:
    """Say what flows behind a node."""
    if node.tag == "external":
        if stage not in (gadgetron_classes.LINES, gadgetron_classes.CROPPED, None):
            raise ConfigError(f"<external> takes lines, but {stage} come to it")
        return gadgetron_classes.FINAL
    if node.tag != "gadget":
        raise ConfigError(f"stream element <{node.tag}>, expected gadget or external")
    return (
        gadgetron_classes.behind(node.classname, stage) if stage and _is_gadgetron(node) else None
    )


def _gadgetron(node: Node) -> list[Gadget]:
    if not _is_gadgetron(node):
        return []  # listed by the caller
    ours = gadgetron_classes.GADGETRON_CLASSES[node.classname].gadget
    properties = gadgetron_classes.properties(node.classname, node.properties)
    return [] if ours is None else [build(node.classname, step(ours), properties)]


def _external(node: Node, catalogue: Catalogue) -> list[Gadget]:
    problems = []
    if not node.connect and node.execute != "gadgets.external":
        problems.append(
            '<external> must hold <execute name="gadgets.external" .../>, '
            f"got {node.execute or 'none'!r}: this host runs no other modules"
        )
    elif not node.inner:
        problems.append("<external> has no <configuration> that lists gadgets")
    gadgets = []
    for element in () if problems else node.inner:
        try:
            if element.tag != "gadget":
                raise ConfigError(f"<{element.tag}> in <configuration>, expected <gadget class=>")
            name = element.classname
            gadgets.append(build(name, catalogue.kind(name), element.properties))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    return gadgets
