"""The python files of a site: whose they are, and what is in them when the host reads them.

They will run with all the rights of the host. So a folder or file that somebody else could change
is refused, as open keys are, and what is checked, hashed and run are the same bytes.
"""

import hashlib
import importlib.util
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError

OTHERS_WRITE = 0o022  # group and everybody


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A python file, as it was when it was read."""

    path: str
    text: str
    sha256: str


def read_folder(folder: Path) -> tuple[SourceFile, ...]:
    """Read the python files at the top of a folder, in the order of their names.

    Raises
    ------
    ConfigError
        If it is no folder, holds none, somebody else could change what is in it, or a file is not
        python. All faults are listed.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise ConfigError(f"gadgets: {folder} is no folder")
    problems = _open_to_others(folder)
    paths = sorted(path for path in folder.glob("*.py") if not path.name.startswith("."))
    if not paths:
        problems.append(f"gadgets: {folder} has no file *.py at its top")
    files = []
    for path in () if problems else paths:
        try:
            files.append(_read(path))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    return tuple(files)


def _open_to_others(folder: Path) -> list[str]:
    """Say by which folders on the way to it, and itself, others could exchange its files."""
    problems = [
        f"gadgets: {place} can be written by others (mode {_mode(place.stat()):04o}): "
        f"chmod go-w {place}"
        for place in folder.parents
        if place.stat().st_mode & OTHERS_WRITE and not place.stat().st_mode & stat.S_ISVTX
    ]
    return problems + _not_ours(folder, folder.stat())


def _not_ours(path: Path, status: os.stat_result) -> list[str]:
    problems = []
    if status.st_mode & OTHERS_WRITE:
        problems.append(
            f"gadgets: {path} can be written by others (mode {_mode(status):04o}): "
            f"chmod go-w {path}"
        )
    if status.st_uid not in (0, os.geteuid()):
        problems.append(
            f"gadgets: {path} belongs to user {status.st_uid}, expected root or user "
            f"{os.geteuid()}, which runs this: name a copy that is its own"
        )
    return problems


def _mode(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode)


def _read(path: Path) -> SourceFile:
    if not path.stem.isidentifier():
        raise ConfigError(
            f"gadgets: {path}: expected a name of letters, digits and '_', such as my_gadget.py"
        )
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            if problems := _not_ours(path, os.fstat(file.fileno())):
                raise ConfigError("; ".join(problems))
            content = file.read()
    except OSError as error:  # a link too: what it leads to was not looked at
        reason = "is a link, expected a file" if path.is_symlink() else error.strerror
        raise ConfigError(f"gadgets: {path}: {reason}") from error
    try:
        text = importlib.util.decode_source(content)
        compile(text, str(path), "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: zeros, or not of the encoding named
        line = getattr(error, "lineno", None)
        raise ConfigError(f"gadgets: {path}, line {line or 1}: no python: {error}") from error
    return SourceFile(path=str(path), text=text, sha256=hashlib.sha256(content).hexdigest())
