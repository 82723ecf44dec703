"""How the processes of a host log: plain lines, or one JSON object a line with the scan's id.

The id is drawn per connection, says nothing of the patient, and is part of the record's name.
Messages of exceptions are left out, for they quote what a client said: it was told them, and the
record has them.
"""

import json
import logging
import os
import threading
import uuid
from contextvars import ContextVar
from datetime import datetime, timezone
from types import TracebackType

from .errors import traces_of

log = logging.getLogger(__name__)
scan_id: ContextVar[str] = ContextVar("scan_id", default="")
ENVIRONMENT = "MNET_LOG"  # "json": also for the worker, which inherits it
PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def new_scan() -> str:
    """Draw an id for what this thread logs from now on."""
    name = uuid.uuid4().hex[:12]
    scan_id.set(name)
    return name


class PlainFormatter(logging.Formatter):
    """Plain lines; exceptions without their messages."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback of an exception below it."""
        record.exc_text = None  # another handler may have written the message there
        text = super().format(record)
        record.exc_text = None
        return text

    def formatException(  # noqa: N802  its name in logging
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """Return where the exception and its causes were raised."""
        return "" if ei[1] is None else traces_of(ei[1])


class JsonFormatter(PlainFormatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, logger, process, scan (where there is one), message, exception."""
        entry = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
        }
        if scan_id.get():
            entry["scan"] = scan_id.get()
        entry["message"] = record.getMessage()
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(level: int, *, as_json: bool = False, plain: str = PLAIN) -> None:
    """Set up this process and those it starts; JSON also where the environment asks for it."""
    if as_json:
        os.environ[ENVIRONMENT] = "json"
    handler = logging.StreamHandler()
    if os.environ.get(ENVIRONMENT) == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(PlainFormatter(plain))
    logging.basicConfig(level=level, handlers=[handler])
    threading.excepthook = _unexpected


def guard() -> None:
    """Leave messages of exceptions out of a log that somebody else has set up."""
    for handler in logging.getLogger().handlers:
        old = handler.formatter or logging.Formatter()
        handler.setFormatter(PlainFormatter(old._fmt, old.datefmt))


def _unexpected(given: threading.ExceptHookArgs) -> None:
    """Log what ends a thread; Python itself would print the message."""
    if given.exc_value is not None:
        log.error("a thread failed", exc_info=given.exc_value)
