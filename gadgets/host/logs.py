"""How the processes of a host log: plain lines, or one JSON object a line with the scan's id.

The id is drawn per connection, says nothing of the patient, and is part of the record's name.
"""

import json
import logging
import os
import uuid
from contextvars import ContextVar
from datetime import datetime, timezone

scan_id: ContextVar[str] = ContextVar("scan_id", default="")
ENVIRONMENT = "MNET_LOG"  # "json": also for the worker, which inherits it
PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def new_scan() -> str:
    """Draw an id for what this thread logs from now on."""
    name = uuid.uuid4().hex[:12]
    scan_id.set(name)
    return name


class JsonFormatter(logging.Formatter):
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
        handler.setFormatter(logging.Formatter(plain))
    logging.basicConfig(level=level, handlers=[handler])
