"""Processes that tests start, and what Linux's /proc tells of any."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def started(command: list[Any], **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """Start a process and wait for its end, but end it where the test fails.

    `Popen` would wait for it then, too: a host never ends by itself, and the failure stays unsaid.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@contextmanager
def serving(
    *options: str, before: tuple[str, ...] = (), **more: Any
) -> Iterator[tuple["subprocess.Popen[Any]", dict[str, Any]]]:
    """Run `mnet serve` on free ports, behind the words `before`; give it, warm, and its ports."""
    command = [*before, sys.executable, "-m", "gadgets.cli", "serve", "--port", "0"]
    command += ["--mask-endpoint", "tcp://127.0.0.1:*", "--device", "cpu", "--announce", *options]
    with started(command, stdout=subprocess.PIPE, text=True, **more) as process:
        yield process, json.loads(process.stdout.readline())
        process.terminate()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, whichever of its threads did."""
    everybody = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [one for one in everybody if (state := _state(one)) and int(state[1]) == pid]


def is_running(pid: int) -> bool:
    """Say whether a process has not ended; one that waits to be reaped has."""
    state = _state(pid)
    return bool(state) and state[0] != "Z"


def _state(pid: int) -> list[str]:
    """Return a process's state, its parent and so on; nothing where there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends in between
        return []
    return status.rpartition(")")[2].split()
