"""The share of the machine that a process has beside those of other sessions.

Where Linux shares cores between sessions first (autogroups: a terminal, a CI job), niceness counts
within a session alone, and the worker has one of its own. Under systemd and in containers there are
no autogroups, and its niceness says the same to the front, which is in its group.
"""

import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)
SMALL, EQUAL = 10, 0  # niceness of a session: a tenth of the share of another one, and the same
PATIENCE_S = 0.11  # the kernel takes ten changes a second


def set_share(pid: int, *, small: bool) -> None:
    """Let the session that a process leads have a small share beside others, or an equal one."""
    place = Path(f"/proc/{pid}/autogroup")
    if not place.exists():
        return
    text = str(SMALL if small else EQUAL)
    for last in (False, True):
        try:
            place.write_text(text)
            return
        except OSError as error:  # too soon after the last change, or it has ended
            if last or not place.exists():
                log.debug("the worker's share stays: %s", error)
                return
            time.sleep(PATIENCE_S)
