"""The command line itself: what it says of itself, and what it does not load for that."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gadgets.cli import main

COMMANDS = ["serve", "maskd", "keys", "conformance", "scan", "demo", "replay", "stream", "convert"]
COMMANDS += ["install-gadgetron", "sequence", "decide", "merge", "recover", "export", "show"]
COMMANDS += ["doctor"]
SLOW = ("torch", "zmq", "h5py", "numpy", "gadgets.conformance")
RUN = f"""
import json, sys
from gadgets.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
loaded = [name for name in {SLOW} if name in sys.modules]
print(json.dumps(loaded), file=sys.stderr)
"""


def said_and_loaded(*arguments: str) -> tuple[str, list[str]]:
    """Run `mnet` in a fresh process; return what it printed, and which of the slow it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout, json.loads(done.stderr)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["serve", "--help"], ["conformance", "--help"]]
)
def test_help_and_version_load_nothing_that_takes_time(arguments: list[str]) -> None:
    assert said_and_loaded(*arguments)[1] == []


def test_help_lists_every_command() -> None:
    said = said_and_loaded("--help")[0]
    assert "{" + ",".join(COMMANDS) + "}" in said


def test_conformance_is_loaded_for_its_own_command_alone(tmp_path: Path) -> None:
    assert "gadgets.conformance" not in said_and_loaded("keys", str(tmp_path / "keys"))[1]


def test_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert not end.value.code
    assert capsys.readouterr().out == f"mnet {importlib.metadata.version('mnet-gadgets')}\n"


def test_the_doctor_has_no_flag_that_does_nothing() -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--quiet"])


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("3", "3")])
def test_numpy_s_products_keep_to_one_thread_unless_the_user_says_otherwise(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two, on two cores, masks beside a reconstruction came after 250 ms instead of 10."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ["OPENBLAS_NUM_THREADS"] == expected
