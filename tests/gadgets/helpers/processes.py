"""Processes as Linux's /proc tells of them."""

from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def is_running(pid: int) -> bool:
    """Say whether a process has not ended; one that waits to be reaped has."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends in between
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
