"""Pipelines: XML in Gadgetron's version-2 dialect to a tuple of gadgets.

Canonical form: stock nodes that we know, then exactly one `<external>` that executes
`gadgets.external` and whose `<configuration>` lists our gadgets in order:

    <gadget class="PredictMask"><property name="acceleration" value="4"/></gadget>

Only classes of the table below can be named. Unknown classes, properties and values fail at load,
all of them listed at once.
"""

import importlib
import importlib.resources
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from .errors import ConfigError
from .gadget import Gadget

GADGETS = {
    "NoiseAdjust": "noise_adjust",
    "RemoveReadoutOversampling": "readout",
    "PredictMask": "predict_mask",
    "AccumulateFrame": "accumulate",
    "CoilMaps": "coil_maps",
    "Reconstruct": "reconstruct",
    "ImageFinish": "image_finish",
}
# Stock C++ nodes in front of ours. The echo is centred by our readout transform, so its node is
# known but needs no gadget.
STOCK: dict[str, str | None] = {
    "NoiseAdjustGadget": "NoiseAdjust",
    "AsymmetricEchoAdjustROGadget": None,
    "RemoveROOversamplingGadget": "RemoveReadoutOversampling",
}
READERS = {
    "AcquisitionReader",
    "WaveformReader",
    "ImageReader",
    "TextReader",
    "GadgetIsmrmrdAcquisitionMessageReader",
    "GadgetIsmrmrdWaveformMessageReader",
}
WRITERS = {"ImageWriter", "MRIImageWriter", "AcquisitionWriter", "WaveformWriter", "TextWriter"}

Pipeline = tuple[Gadget, ...]


def load(name: str, folder: Path | None = None) -> str:
    """Return the XML text of a pipeline by its file name, from the host's own folder only."""
    folder = folder or Path(str(importlib.resources.files("xml_configs")))
    known = sorted(path.name for path in folder.glob("*.xml"))
    if name not in known:
        raise ConfigError(f"no pipeline {name!r}, expected one of {', '.join(known)}")
    return (folder / name).read_text(encoding="utf-8")


def parse(xml: str | bytes) -> Pipeline:
    """Build the gadgets of a pipeline.

    Raises
    ------
    ConfigError
        If the text is not XML, not version 2, or names anything unknown.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also unknown encodings
        raise ConfigError(f"pipeline is not well-formed XML: {error}") from None
    if root.tag != "configuration" or (root.findtext("version") or "").strip() != "2":
        raise ConfigError(
            f"pipeline has root <{root.tag}>, expected <configuration> with <version>2</version>"
        )
    problems = _unknown(root, "readers/reader", READERS) + _unknown(root, "writers/writer", WRITERS)
    stream = root.find("stream")
    gadgets: list[Gadget] = []
    n_externals = 0
    for node in stream if stream is not None else ():
        try:
            if node.tag == "gadget":
                gadgets += _stock(node)
            elif node.tag == "external":
                n_externals += 1
                gadgets += _external(node)
            else:
                problems.append(f"stream element <{node.tag}>, expected gadget or external")
        except ConfigError as error:
            problems.append(str(error))
    if n_externals != 1:
        problems.append(f"{n_externals} <external> nodes, expected exactly one")
    if problems:
        raise ConfigError("; ".join(problems))
    return tuple(gadgets)


def split(gadgets: Pipeline) -> tuple[Pipeline, Pipeline]:
    """Split a pipeline into the part of the front and the part of the worker."""
    first = next((i for i, gadget in enumerate(gadgets) if gadget.heavy), len(gadgets))
    return gadgets[:first], gadgets[first:]


def build(name: str, properties: dict[str, str]) -> Gadget:
    """Build one gadget of the table from its properties as text; ConfigError lists all faults."""
    if name not in GADGETS:
        raise ConfigError(f"unknown gadget class {name!r}, expected one of {', '.join(GADGETS)}")
    kind: type[Gadget] = getattr(importlib.import_module(f".{GADGETS[name]}", __package__), name)
    types_ = typing.get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    values, problems = {}, []
    unknown = sorted(set(properties) - set(known))
    if unknown:
        problems.append(
            f"gadget {name} has no property {', '.join(unknown)}; it has {', '.join(known)}"
        )
    for key in (key for key in properties if key in known):
        try:
            values[key] = _value(f"gadget {name}, property {key}", properties[key], types_[key])
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"gadget {name}: {error}") from None


def _value(where: str, text: str, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is types.UnionType:  # `T | None`: empty text is None
        inner = next(arg for arg in typing.get_args(kind) if arg is not types.NoneType)
        return None if text == "" else _value(where, text, inner)
    if origin is Literal:
        allowed = typing.get_args(kind)
        if text not in allowed:
            raise ConfigError(f"{where} is {text!r}, expected one of {', '.join(allowed)}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{where} is {text!r}, expected true or false")
        return text.lower() == "true"
    try:
        value = kind(text)
    except ValueError:
        raise ConfigError(f"{where} is {text!r}, expected {kind.__name__}") from None
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{where} is {text!r}, expected a finite number")
    return value


def _properties(node: Element) -> dict[str, str]:
    """Read both spellings: attributes name= value=, and children <name/> <value/>."""
    found: dict[str, str] = {}
    for element in node.findall("property"):
        name = (element.get("name") or element.findtext("name") or "").strip()
        value = element.get("value")
        if name in found:
            raise ConfigError(f"gadget {node.get('class')}: property {name} is there twice")
        found[name] = ((element.findtext("value") or "") if value is None else value).strip()
    return found


def _unknown(root: Element, path: str, known: Iterable[str]) -> list[str]:
    classes = [(node.findtext("classname") or "").strip() for node in root.findall(path)]
    kind = path.rpartition("/")[2]
    return [f"unknown {kind} class {name!r}" for name in classes if name not in set(known)]


def _stock(node: Element) -> list[Gadget]:
    name = (node.findtext("classname") or "").strip()
    if name not in STOCK:
        raise ConfigError(
            f"gadget {name!r} is not known to this host, expected one of {', '.join(STOCK)} "
            "or our own gadgets inside <external>"
        )
    ours = STOCK[name]
    return [] if ours is None else [build(ours, {})]  # stock properties concern the C++ node


def _external(node: Element) -> list[Gadget]:
    execute, connect = node.find("execute"), node.find("connect")
    if connect is None and (execute is None or execute.get("name") != "gadgets.external"):
        raise ConfigError('<external> must hold <execute name="gadgets.external" .../>')
    configuration = node.find("configuration")
    if configuration is None or not len(configuration):
        raise ConfigError("<external> has no <configuration> that lists gadgets")
    gadgets, problems = [], []
    for element in configuration:
        try:
            if element.tag != "gadget":
                raise ConfigError(f"<{element.tag}> in <configuration>, expected <gadget class=>")
            gadgets.append(build(element.get("class", ""), _properties(element)))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    return gadgets
