"""Every pipeline, gadget and property, as a page: ``docs/pipelines.md``.

Regenerate it with ``python -m gadgets.pipeline.reference > docs/pipelines.md``; a test holds the
page to the shipped XML files and to the gadgets' sources, whose docstrings and comments it shows.
"""

import importlib.resources
import inspect
import re
import sys
from collections.abc import Container, Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ..gadgetron import classes as gadgetron_classes
from ..gadgetron.classes import GadgetronClass
from . import readers_writers
from .build import load, parse
from .catalogue import GADGETS, step
from .field_comments import field_comments
from .gadget import Gadget
from .properties import annotations, choices, without_none

INTRODUCTION = """\
# Pipelines

A pipeline is an XML file that lists gadgets in order. A client names it by its file's name; a host
has those of this page, and with `mnet serve --pipelines FOLDER` those of a folder of its own, which
come first. Nothing else can be named. What is unknown in a file, or out of range, is listed in one
error before a scan begins.

This page is made from the XML files and from the gadgets themselves:

```
python -m gadgets.pipeline.reference > docs/pipelines.md
```
"""
OURS = """\
## Gadgets

They stand in the `<configuration>` of a pipeline's one `<external>` node, in the order of the
stream. A property is written in one of two ways:

```xml
<gadget class="Reconstruct">
  <property name="method" value="cg_sense"/>
  <property><name>lam</name><value>0.01</value></property>
</gadget>
```

The value `lam@Reconstruct` stands for that property of that gadget; a gadget may have a `<name>` to
be meant by. From the first heavy gadget on, the chain runs in the worker, a process of its own.
[A gadget of your own](own-gadget.md) stands among these.
"""
STOCK = """\
## Gadgetron's classes

Pipelines of the C++ Gadgetron, version 2 or the older `gadgetronStreamConfiguration`, run as they
are if they hold no other classes than these. Ours stand for them. A property that would change an
image in a way that is not done here is refused, never passed over.
"""


def page() -> str:
    """Return the page, Markdown."""
    files = sorted(Path(str(importlib.resources.files("xml_configs"))).glob("*.xml"))
    parts = [INTRODUCTION, "## Which one\n", *map(_pipeline, files)]
    parts += [OURS, *(_gadget(name, "###") for name in GADGETS)]
    parts += [STOCK, _stock_table(), _readers_and_writers()]
    parts += ["### What stands for them\n", *map(_stand_in, gadgetron_classes.EQUIVALENTS)]
    return "\n".join(parts)


def purpose(xml: str) -> str:
    """Return the first comment of a pipeline, in lines that are not indented."""
    found = re.search(r"<!--(.*?)-->", xml, re.DOTALL)
    return inspect.cleandoc(found[1]).strip() if found else ""


def _pipeline(path: Path) -> str:
    xml = load(path.name, path.parent)
    chain = " ► ".join(_set(gadget) for gadget in parse(xml))
    return f"### {path.name}\n\n{purpose(xml)}\n\n{chain}\n"


def _set(gadget: Gadget) -> str:
    """Name a gadget, with the properties that are not its defaults."""
    given = [
        f"{one.name} {_text(getattr(gadget, one.name))}"
        for one in fields(gadget)
        if one.init and getattr(gadget, one.name) != one.default
    ]
    return f"`{type(gadget).__name__}`" + (f" ({', '.join(given)})" if given else "")


def _gadget(name: str, level: str, only: Container[str] | None = None) -> str:
    """Describe a gadget and its properties, or only some of them."""
    kind = step(name)
    parts = [f"{level} {name}", inspect.cleandoc(kind.__doc__ or "")]
    if kind.heavy:
        parts.append("Heavy: it and what follows run in the worker.")
    rows = [row for key, row in _properties(kind) if only is None or key in only]
    if rows:
        parts.append(_table(("property", "is", "default", "meaning"), rows).rstrip())
    else:
        parts.append("It has no properties.")
    return "\n\n".join(parts) + "\n"


def _stand_in(name: str) -> str:
    """Describe a gadget that only Gadgetron's classes lead to, with what these may set."""
    passed = [
        known.passed
        for known in gadgetron_classes.GADGETRON_CLASSES.values()
        if known.gadget == name
    ]
    return _gadget(name, "####", frozenset().union(*passed))


def _properties(kind: type[Gadget]) -> Iterator[tuple[str, tuple[str, ...]]]:
    said = field_comments(kind)
    defaults = {one.name: one.default for one in fields(kind)}
    for name, annotation in annotations(kind).items():
        default = defaults[name]
        shown = "must be given" if default is MISSING else _text(default)
        yield name, (f"`{name}`", _kind(annotation), shown, said[name])


def _kind(annotation: Any) -> str:
    inner = without_none(annotation)
    words = choices(annotation)
    names = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
    shown = ", ".join(f"`{word}`" for word in words) if words else names[inner]
    return shown if inner is annotation else f"{shown}, or empty"


def _text(value: Any) -> str:
    """Write a value as XML would have it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return "" if value in (None, "") else f"`{value}`"


def _stock_table() -> str:
    rows = [
        (f"`{name}`", _flow(known), f"`{known.gadget}`" if known.gadget else "", _allowed(known))
        for name, known in gadgetron_classes.GADGETRON_CLASSES.items()
    ]
    return _table(("class", "takes ► gives", "ours", "properties that it may have"), rows)


def _flow(known: GadgetronClass) -> str:
    takes = " or ".join(sorted(known.takes))
    return f"{takes} ► {known.gives or 'the same'}"


def _allowed(known: GadgetronClass) -> str:
    parts = [f"as ours: {_words(known.passed)}"] if known.passed else []
    parts += [
        f"`{key}` {' or '.join(f'`{value}`' if value else 'empty' for value in values)}"
        for key, values in sorted(known.allowed.items())
    ]
    parts += [f"of no effect: {_words(known.ignored)}"] if known.ignored else []
    return "; ".join(parts)


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _readers_and_writers() -> str:
    tables = readers_writers.READERS, readers_writers.WRITERS
    reads, writes = (
        ", ".join(f"`{name}` ({kind.__name__})" for name, kind in t.items()) for t in tables
    )
    return (
        f"Everywhere of no effect: {_words(gadgetron_classes.ANYWHERE)}.\n\n"
        f"Readers: {reads}.\n\nWriters: {writes}.\n\n"
        f"Libraries (`<dll>`): {_words(readers_writers.LIBRARIES)}.\n"
    )


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
