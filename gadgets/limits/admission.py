"""Who comes in: so many sessions at a time, and files enough for all of them."""

import logging
import resource
import threading

from ..errors import ConfigError

log = logging.getLogger(__name__)
# A session holds its socket and three files of its record. In the worker each of its items is one:
# as many as may wait there for one scan (`gadgets.worker.handle.IN_FLIGHT`), and those on
# their way.
FILES_OF_A_SESSION = 28
FILES_OF_THE_HOST = 128


class Admission:
    """Counts the sessions of a host."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._n = 0

    def enter(self) -> bool:
        """Let one more session in; False, and nothing counted, where there are enough."""
        with self._lock:
            if self._n >= self.most:
                return False
            self._n += 1
            return True

    def leave(self) -> None:
        """Note that a session has ended."""
        with self._lock:
            self._n -= 1


def make_room_for_files(sessions: int) -> None:
    """Raise this process's limit of open files to what its sessions need; children inherit it.

    Raises ConfigError where the system does not allow so many.
    """
    needed = FILES_OF_THE_HOST + FILES_OF_A_SESSION * sessions
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        most = max((hard - FILES_OF_THE_HOST) // FILES_OF_A_SESSION, 0)
        raise ConfigError(
            f"{sessions} sessions need {needed} open files, and {hard} are allowed: raise the "
            f"limit (ulimit -Hn, or LimitNOFILE in systemd), or allow {most} sessions "
            "(--max-sessions)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    log.info("open files: the limit of %d is raised to %d", soft, needed)
