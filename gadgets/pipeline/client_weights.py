"""Which weights a client may name: those of the package, and what the host's pipelines name.

A path would tell a client which files the host has, and have it read them. Whoever writes the
host's own pipelines may name files; whoever connects chooses among names.
"""

import importlib.resources
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .gadget import Gadget
from .models import WEIGHTS


def weights_properties(kind: type[Any]) -> frozenset[str]:
    """Return the names of a gadget's properties that name weights."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return frozenset(
        one.name for one in fields(kind) if WEIGHTS in getattr(hints[one.name], "__metadata__", ())
    )


def check_weights(chosen: Iterable[Gadget], own: Iterable[Gadget]) -> None:
    """Refuse weights that are neither packaged nor named by `own`, which a client started from.

    Raises ConfigError with the names that there are; it never says whether there is such a file.
    """
    known = packaged() | {name for _, name in _named(own)}
    for what, name in _named(chosen):
        if name not in known:
            raise ConfigError(
                f"{what} is {name!r}, expected one of {', '.join(sorted(packaged()))}: a client "
                "may name packaged weights; files stand in a pipeline of the host's own"
            )


def _named(gadgets: Iterable[Gadget]) -> Iterator[tuple[str, str]]:
    """Give every property that names weights, and the name."""
    for gadget in gadgets:
        for name in sorted(weights_properties(type(gadget))):
            yield f"{type(gadget).__name__}.{name}", getattr(gadget, name)


@cache
def packaged() -> frozenset[str]:
    """Return the names of the weights that come with the package."""
    folder = Path(str(importlib.resources.files("mnet"))) / "weights"
    return frozenset(path.stem for path in folder.glob("*.json"))
