"""Ctrl-C, as a terminal sends it to the whole group: status 130, no traceback, nobody left.

`mnet keys` is not tried: it is done before a signal could come.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from gadgets.files.source import write_images, write_mrd
from tests.gadgets.export.test_export import image
from tests.gadgets.helpers.closed_loop import source
from tests.gadgets.helpers.processes import started

# What a command is given, and what shows that it works: words of its output, or a pipe it opened.
COMMANDS = {
    "serve": (["--port", "0", "--mask-endpoint", "tcp://127.0.0.1:*"], "MRD on"),
    "maskd": (["--mask-endpoint", "tcp://127.0.0.1:*"], "mask channel adaptive-mask/1"),
    "scan": (["RAW", "--no-report"], "starting a host"),
    "demo": ([], "drawing the sample anatomy"),
    "replay": (["RAW"], "starting a host"),
    "stream": (["--config", "cg_sense.xml", "--input", "PIPE"], "PIPE"),
    "convert": (["PIPE", "target.h5"], "PIPE"),
    "show": (["PIPE"], "PIPE"),
    "export": (["IMAGES", "--dicom", "dicom", "--scan", "PIPE"], "PIPE"),
    "conformance": (["--listen", "tcp://127.0.0.1:*", "--mrd", "0"], "start the sequence"),
    "doctor": (["--port", "0", "--mask-endpoint", "tcp://127.0.0.1:*"], "packages"),
}


def alive(mark: str) -> list[int]:
    """Return the processes that have a mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            ours = mark.encode() in (folder / "environ").read_bytes()
            dead = ") Z" in (folder / "stat").read_text()
        except OSError:  # no process, or gone meanwhile
            continue
        if ours and not dead:
            found.append(int(folder.name))
    return found


def heeding() -> None:
    """Let Ctrl-C count, which whatever runs in the background of a shell is started deaf to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_ends_a_command_and_all_that_it_started(command: str, tmp_path: Path) -> None:
    given, sign = COMMANDS[command]
    scan = source(n_slices=1)
    write_mrd(tmp_path / "raw.h5", scan.header, scan.acquisitions)
    write_images(tmp_path / "images.h5", [image()], "mnet")
    os.mkfifo(tmp_path / "pipe")
    names = {"RAW": "raw.h5", "IMAGES": "images.h5", "PIPE": "pipe"}
    mark = f"MNET_TEST_MARK={uuid.uuid4()}"
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-m", "gadgets.cli", command, *(names.get(word, word) for word in given)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1"} | dict([mark.split("=")]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heeding,
    )
    assert process.stdout is not None
    heard = ""
    if sign == "PIPE":
        held = os.open(tmp_path / "pipe", os.O_WRONLY)  # returns once the command reads from it
    else:
        while sign not in heard:
            line = process.stdout.readline()
            assert line, heard
            heard += line
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=90)
    if sign == "PIPE":
        os.close(held)
    heard += rest
    assert process.returncode == 130, heard
    assert "Traceback" not in heard
    assert heard.strip().endswith(f"mnet {command}: interrupted")
    until = time.monotonic() + 60
    while left := alive(mark):
        assert time.monotonic() < until, left  # a worker ends once it has read that its host has
        time.sleep(0.1)


def test_a_host_whose_starter_has_gone_before_it_is_ready_ends_without_a_word() -> None:
    command = [sys.executable, "-m", "gadgets.cli", "serve", "--port", "0", "--announce", "--quiet"]
    command += ["--mask-endpoint", "tcp://127.0.0.1:*"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        heard = process.stderr.read()
        assert process.wait(60) == 0
    assert heard == b""
