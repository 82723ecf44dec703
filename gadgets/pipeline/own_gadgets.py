"""A site's own gadgets: the classes in the python files at the top of one folder.

It is the host's command line that names the folder; a client names at most a class in it. The
worker gets the text that the front has read, so that both run the same. A file is a module that
nothing else can import; what it imports itself is the site's affair.
"""

import inspect
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from ..errors import ConfigError
from .catalogue import STEPS, Catalogue, OwnGadget
from .gadget import Gadget
from .own_files import SourceFile, read_folder
from .properties import SIMPLE, annotations, can_be_text

NO_PROPERTIES = ("heavy", "takes_bursts")  # of the class, not of what XML makes of it


def own_gadgets(folder: Path) -> Catalogue:
    """Read and import a folder's gadgets; ConfigError as `read_folder` and `import_files`."""
    return import_files(read_folder(folder))


def import_files(files: Iterable[SourceFile]) -> Catalogue:
    """Run files and catalogue the gadgets that they define.

    Raises
    ------
    ConfigError
        If a file fails, defines no gadget, or one that no XML could name or set. All faults are
        listed.
    """
    own: dict[str, OwnGadget] = {}
    problems, files = [], tuple(files)
    for file in files:
        try:
            kinds = _gadgets(_run(file), file)
        except ConfigError as error:
            sys.modules.pop(_module_name(file), None)
            problems.append(str(error))
            continue
        taken = {one.kind.__name__: one.file.path for one in own.values()}
        for kind in kinds:
            name = kind.__name__
            if name in taken:
                problems.append(f"gadgets: {file.path}: {taken[name]} has a gadget {name} too")
            own[f"{Path(file.path).stem}.{name}"] = OwnGadget(kind=kind, file=file)
    if problems:
        raise ConfigError("; ".join(problems))
    return Catalogue(own=own, files=files)


def _run(file: SourceFile) -> ModuleType:
    """Run a file as a module of its own, which belongs to no package."""
    module = ModuleType(_module_name(file))
    module.__file__, module.__package__ = file.path, ""
    sys.modules[module.__name__] = module  # where dataclasses look up what an annotation means
    try:
        exec(compile(file.text, file.path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # a boundary: the code is not ours
        _failed(file, error)
    return module


def _module_name(file: SourceFile) -> str:
    """Return a name under which no other file, and no other version of this one, is found."""
    return f"own_gadgets.{Path(file.path).stem}_{file.sha256[:8]}"


def _failed(file: SourceFile, error: BaseException) -> NoReturn:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file.path
    ]
    said = "".join(traceback.format_exception_only(error)).strip()
    raise ConfigError(f"gadgets: {file.path}, line {(lines or [1])[-1]}: {said}") from error


def _gadgets(module: ModuleType, file: SourceFile) -> list[type[Gadget]]:
    """Return the gadgets that a module defines; what begins with '_' is no gadget but its base."""
    kinds = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Gadget)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]
    kinds = list(dict.fromkeys(kinds))
    problems = [problem for kind in kinds for problem in _faults(kind)]
    if not kinds:
        problems.append("no class of it is a gadgets.pipeline.gadget.Gadget")
    if problems:
        raise ConfigError("; ".join(f"gadgets: {file.path}: {problem}" for problem in problems))
    return kinds


def _faults(kind: type[Gadget]) -> list[str]:
    """Say why XML could not name a class, or not set its properties."""
    name = kind.__name__
    if name in STEPS:
        return [f"{name} is the name of one of our gadgets; choose another"]
    if inspect.isabstract(kind):
        return [f"{name} has no __call__; a base of gadgets has a name that begins with '_'"]
    if "__dataclass_fields__" not in vars(kind):
        return [f"{name} is no dataclass: write @dataclass(frozen=True, kw_only=True) before it"]
    try:
        known = annotations(kind)
    except (NameError, TypeError) as error:
        return [f"{name}: the type of a property cannot be read: {error}"]
    simple = ", ".join(one.__name__ for one in SIMPLE)
    return [
        f"{name}, {key} is of the class: write {key} = True, without a type"
        for key in NO_PROPERTIES
        if key in known
    ] + [
        f"{name}, property {key} is of type {annotation}, expected {simple}, a Literal of words, "
        "or one of them | None"
        for key, annotation in known.items()
        if not can_be_text(annotation)
    ]
