"""What can go wrong, as a tree.

    GadgetsError
    ├── ConfigError     a pipeline or a command line that cannot be what was meant
    ├── HeaderError     an MRD header that cannot be reconstructed (also a ValueError)
    ├── ProtocolError   bytes from a peer or a file that break the protocol
    ├── IncompleteError a file that is not the fully sampled scan that is needed (a ValueError too)
    └── GadgetError     a gadget failed on its input; the cause is chained

Messages say what, what was expected and what came instead. They quote a header, a client or a
sequence, and so may name a patient: they are for whoever sent that, and for the record. Logs get
`place_of` and `traces_of`, which quote nothing but our own code.
"""

import linecache
import traceback
from pathlib import PurePath

LONGEST_STATEMENT = 300  # characters


class GadgetsError(Exception):
    """Any failure that this package explains."""


class ConfigError(GadgetsError):
    """A pipeline or a command line names something that does not exist or does not fit."""


class HeaderError(GadgetsError, ValueError):
    """An MRD header is broken, or describes a scan that is not supported."""


class ProtocolError(GadgetsError):
    """Bytes from a peer or a file break the protocol."""


class IncompleteError(GadgetsError, ValueError):
    """A file is not the fully sampled scan that is needed."""


class GadgetError(GadgetsError):
    """A gadget failed on its input."""


def place_of(error: BaseException) -> str:
    """Say what kind of error was raised where, by which statement; nothing that its message quotes.

    `HeaderError in gadgets/mrd/geometry.py, line 9: raise HeaderError(f"expected 1, got {n}")`
    """
    frames = traceback.extract_tb(error.__traceback__)
    kind = type(error).__name__
    if not frames:
        return kind
    last = frames[-1]
    first = last.lineno or 0
    lines = range(first, (getattr(last, "end_lineno", None) or first) + 1)  # 3.11 and later
    statement = " ".join(linecache.getline(last.filename, number).strip() for number in lines)
    file = "/".join(PurePath(last.filename).parts[-3:])
    return f"{kind} in {file}, line {first}: {statement[:LONGEST_STATEMENT]}"


def traces_of(error: BaseException) -> str:
    """Return the traceback of an error and of what caused it, without their messages."""
    parts = ["Traceback, messages left out (most recent call last):\n"]
    parts += [*traceback.format_tb(error.__traceback__), type(error).__name__]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        parts = [traces_of(cause), "\n\nwhich led to\n\n", *parts]
    return "".join(parts)
