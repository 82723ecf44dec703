"""What the comments beside a dataclass's fields say, read from its source."""

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any


def field_comments(kind: type[Any]) -> dict[str, str]:
    """Return the comment of every field, "" where it has none.

    It stands behind the field, or on lines of its own right above. A class that says nothing of
    a field again leaves it what its base said.
    """
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            said |= _of_class(textwrap.dedent(inspect.getsource(base)))
    return {one.name: said.get(one.name, "") for one in fields(kind) if one.init}


def _of_class(source: str) -> dict[str, str]:
    comments = dict(_comments(source))
    body = ast.parse(source).body[0]
    found = {}
    for node in body.body if isinstance(body, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = _above(node.lineno, comments) or comments.get(node.end_lineno or 0, (0, ""))[1]
            if text:
                found[node.target.id] = text
    return found


def _comments(source: str) -> Iterator[tuple[int, tuple[bool, str]]]:
    """Give line numbers with their comments, and whether these stand alone."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            yield token.start[0], (alone, token.string.lstrip("# ").strip())


def _above(line: int, comments: dict[int, tuple[bool, str]]) -> str:
    lines: list[str] = []
    while comments.get(line - 1, (False, ""))[0]:
        line -= 1
        lines.insert(0, comments[line][1])
    return " ".join(lines)
