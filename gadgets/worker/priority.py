"""The share of the machine that a process has beside those of other sessions.

Where Linux shares cores between sessions first (autogroups: a terminal, a CI job), niceness counts
within a session alone, and the worker has one of its own. A session's share is divided among its
threads: with one on each of two cores the worker has a third of either beside sessions of one
thread, which have two thirds. Under systemd and in containers there are no autogroups, and its
niceness says the same to the front, which is in its group.
"""

import logging
import math
import time
from pathlib import Path

log = logging.getLogger(__name__)
SMALL, EQUAL = 10, 0  # niceness of a session: a tenth of the share of another one, and the same
STEP = 1.25  # what a step of niceness changes a share by
PATIENCE_S = 0.11  # the kernel takes ten changes a second


def full_share(n_threads: int) -> int:
    """Return the niceness of a session of so many threads, each with a share like another one's."""
    return EQUAL - round(math.log(n_threads, STEP))


def set_share(pid: int, niceness: int) -> None:
    """Set the niceness of the session that a process leads; EQUAL where less is not allowed."""
    place = Path(f"/proc/{pid}/autogroup")
    if not place.exists():
        return
    for last in (False, True):
        try:
            place.write_text(str(niceness))
            return
        except PermissionError:  # only the superuser may take more than others
            if niceness < EQUAL:
                set_share(pid, EQUAL)
            return
        except OSError as error:  # too soon after the last change, or it has ended
            if last or not place.exists():
                log.debug("the worker's share stays: %s", error)
                return
            time.sleep(PATIENCE_S)
