"""A host of one's own in another process, on free ports, for as long as a scan lasts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import GadgetsError
from ..mask.curve_keys import ClientKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a host listens."""

    host: str
    port: int
    mask_endpoint: str
    mask_keys: ClientKeys | None = None  # where the mask channel uses CURVE


@contextmanager
def private_host(
    records: Path,
    *,
    device: str = "auto",
    pipelines: Path | None = None,
    gadgets: Path | None = None,
) -> Iterator[Address]:
    """Start `mnet serve`, wait until it is ready, and stop it in the end.

    `pipelines` and `gadgets` are folders of one's own.

    Raises
    ------
    GadgetsError
        If the host ends before it is ready.
    """
    command = [sys.executable, "-m", "gadgets.cli", "serve", "--port", "0"]
    command += ["--mask-endpoint", "tcp://127.0.0.1:*", "--records", str(records)]
    command += ["--device", device, "--announce", "--quiet", "--stop-s", "0"]
    command += ["--while-stdin"]  # also where this process is killed
    for name, folder in (("--pipelines", pipelines), ("--gadgets", gadgets)):
        command += [] if folder is None else [name, str(folder)]
    # in a session of its own, for Ctrl-C is ours: we end it, and it has nothing to say of it
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
    )
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        if not line:
            raise GadgetsError(f"the private host ended with status {process.wait()}")
        announced = json.loads(line)
        yield Address(
            host="127.0.0.1", port=announced["port"], mask_endpoint=announced["mask_endpoint"]
        )
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            pipe.close()
