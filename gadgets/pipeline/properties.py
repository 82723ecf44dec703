"""A gadget's properties: its fields, and what the text of XML makes of them.

A property is a word, a number, true or false, one of some words (`Literal`), or one of these that
may be absent (`| None`, for which the text is empty).
"""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar

from ..errors import ConfigError

SIMPLE = (str, int, float, bool)
Kind = TypeVar("Kind")


def annotations(kind: type[Any]) -> dict[str, Any]:
    """Return the types of a dataclass's properties, in order."""
    types_ = typing.get_type_hints(kind)
    return {one.name: types_[one.name] for one in fields(kind) if one.init}


def build(name: str, kind: type[Kind], given: Mapping[str, str]) -> Kind:
    """Make a gadget of its properties as text; ConfigError lists all faults under its `name`."""
    known = annotations(kind)
    problems = [] if given.keys() <= known.keys() else [_unknown(name, given, known)]
    missing = [key for key in _required(kind) if key not in given]
    if missing:
        problems.append(f"gadget {name} needs a value of {', '.join(missing)}")
    values = {}
    for key in (key for key in given if key in known):
        try:
            values[key] = _value(f"gadget {name}, property {key}", given[key], known[key])
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"gadget {name}: {error}") from None


def choices(annotation: Any) -> tuple[str, ...]:
    """Return the words that a property may be, () where it may be others."""
    inner = without_none(annotation)
    return typing.get_args(inner) if typing.get_origin(inner) is Literal else ()


def can_be_text(annotation: Any) -> bool:
    """Say whether text can become such a property."""
    words = choices(annotation)
    return without_none(annotation) in SIMPLE or bool(words and all(type(w) is str for w in words))


def without_none(annotation: Any) -> Any:
    """Return T of `T | None`, and everything else as it is."""
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return annotation
    inner = [one for one in typing.get_args(annotation) if one is not types.NoneType]
    return inner[0] if len(inner) == 1 else annotation


def _unknown(name: str, given: Mapping[str, str], known: Mapping[str, Any]) -> str:
    unknown = ", ".join(sorted(given.keys() - known.keys()))
    return f"gadget {name} has no property {unknown}; it has {', '.join(known) or 'none'}"


def _required(kind: type[Any]) -> list[str]:
    return [
        one.name
        for one in fields(kind)
        if one.init and one.default is MISSING and one.default_factory is MISSING
    ]


def _value(where: str, text: str, annotation: Any) -> Any:
    kind = without_none(annotation)
    if kind is not annotation and text == "":
        return None
    if words := choices(annotation):
        if text not in words:
            raise ConfigError(f"{where} is {text!r}, expected one of {', '.join(words)}")
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
