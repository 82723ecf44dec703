"""Every option of every command, as the parser has them, with its usual mistakes.

Each is one sentence and a status that is not 0, before any work and without a traceback. An option
that has no mistakes listed here fails the test: whoever adds one says what can go wrong with it.
"""

import argparse
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from gadgets import cli
from gadgets.files.source import write_mrd
from tests.gadgets.helpers.closed_loop import source

PORTS = ["80000", "-1", "http"]
TIMES = ["-5", "nan", "soon"]
SIZES = ["0", "-2", "nan", "wide"]
COUNTS = ["0", "-2", "1.5", "many"]
ENDPOINTS = [
    "127.0.0.1:9004",
    "tcp://127.0.0.1:80000",
    "http://127.0.0.1:9004",
    "tcp://no.invalid:1",
]
MISSING = ["MISSING/x", "FILE/x"]  # MISSING is no folder, and FILE is a file
WRITTEN = [*MISSING, "SHUT/x"]  # and SHUT may not be written
# What is wrong for an option of this name. Where it depends on the command, COMMAND OPTION.
WRONG: dict[str, list[str]] = {
    "--acceleration": ["0.5", "-4", "100", "nan", "four"],
    "--address": ["no.invalid"],
    "--against-recon": ENDPOINTS,
    "--bandwidth-hz": SIZES,
    "--birth-date": ["1.2.1990"],
    "--config": ["no_such.xml", "../secret.xml"],
    "--deadline-ms": TIMES,
    "--device": ["gpu", "cuda:99", "cuda:-1"],
    "--dicom": ["FULL", *WRITTEN],
    "--dummies": ["-1", "1.5"],
    "--echo-ms": ["0", *TIMES],
    "--echo-spacing-ms": ["0", *TIMES],
    "--echo-train": ["0", "-2", "x"],
    "--effective-echo": ["0", "x", "9"],  # of a train of 1, or 8
    "--external": PORTS,
    "--first-axis": ["coil"],
    "--flip-deg": ["0", "400", "x"],
    "--fov-mm": SIZES,
    "--gadgets": ["MISSING", "FILE"],
    "--grace-ms": TIMES,
    "--group": ["no_such"],
    "--header": ["ky_center", "ky_center=x", "colour=3"],
    "--header-s": ["0", *TIMES],
    "--host": ["no.invalid:9002", "127.0.0.1", "127.0.0.1:80000", "CLOSED"],
    "--idle-s": ["0", *TIMES],
    "--json": WRITTEN,
    "--keep": WRITTEN,
    "--ky-center": ["-1", "x"],
    "--limits": ["tesla"],
    "--listen": ENDPOINTS,
    "--mask-endpoint": ENDPOINTS,
    "--mask-keys": ["MISSING", "FILE", "FULL"],
    "--masks": [*MISSING, "TEXT"],
    "--matrix": COUNTS,
    "--max-coils": COUNTS,
    "--max-grad-mt-m": SIZES,
    "--max-matrix": COUNTS,
    "--max-memory-gb": SIZES,
    "--max-queue-gb": SIZES,
    "--max-samples": COUNTS,
    "--max-sessions": COUNTS,
    "--max-slew-t-m-s": SIZES,
    "--monitor-port": PORTS,
    "--mrd": ["no.invalid:9002", *PORTS],
    "--nifti": ["x.png", *WRITTEN],
    "--noise": ["FILE/x", "SHUT/x"],
    "--order": ["upwards"],
    "--output": ["x.jpg", *WRITTEN],
    "--part": ["third"],
    "--patient-id": ["a\\b", "x" * 65],
    "--physics": ["epi"],
    "--physics-tr-ms": ["0", *TIMES],
    "--picture": WRITTEN,
    "--pipelines": ["MISSING", "FILE"],
    "--port": PORTS,
    "--records": ["FILE/x", "SHUT/x"],
    "--refocusing-deg": ["0", "400", "x"],
    "--report": WRITTEN,
    "--rotate-deg": ["x"],
    "--scan": MISSING,
    "--scan-s": ["0", *TIMES],
    "--seeds": ["0", "x"],
    "--seq": [*MISSING, "TEXT"],
    "--sex": ["male"],
    "--slices": ["0", "x"],
    "--spacing-mm": SIZES,
    "--stall-s": ["0", *TIMES],
    "--status-port": PORTS,
    "--stop-s": TIMES,
    "--study-date": ["yesterday"],
    "--study-uid": ["abc"],
    "--thickness-mm": SIZES,
    "--tr-ms": TIMES,
    "--unrecorded": ["never"],
    "--client": ["../up", "host"],
    "conformance --config": [],  # it is a name that the host under test knows
    "convert source": MISSING,
    "convert target": WRITTEN,
    "decide scan": [*MISSING, "TEXT"],
    "export images": [*MISSING, "RAW"],
    "install-gadgetron folder": ["MISSING", "FILE"],
    "keys folder": ["FILE/x", "SHUT/x"],
    "merge first": [*MISSING, "TEXT"],
    "merge second": [*MISSING, "TEXT"],
    "recover records": [*MISSING, "TEXT"],
    "replay data": [*MISSING, "TEXT"],
    "scan data": [*MISSING, "TEXT"],
    "sequence --output": ["x.jpg", "MISSING/x.seq", "SHUT/x.seq"],
    "sequence kind": ["epi"],
    "show data": [*MISSING, "TEXT"],
    "stream --input": MISSING,
    "stream --output": WRITTEN,
}
WRONG |= dict.fromkeys(
    ["--patient-name", "--study-id", "--accession-number", "--description"], WRONG["--patient-id"]
)
NEEDS = {  # what a command cannot go without
    "scan": ["RAW"],
    "replay": ["RAW"],
    "stream": ["--config", "cg_sense.xml", "--input", "RAW"],
    "convert": ["RAW", "target.h5"],
    "keys": ["keys"],
    "conformance": ["--listen", "tcp://127.0.0.1:*"],
    "export": ["IMAGES", "--dicom", "dicom"],
    "show": ["RAW"],
    "decide": ["RAW", "--output", "masks.json"],
    "merge": ["RAW", "RAW", "--output", "merged.h5"],
    "recover": ["RAW"],
    "install-gadgetron": ["there"],
    "sequence": ["tse", "--limits", "siemens", "--output", "tse.seq"],
}
BESIDE = {"--dicom", "--listen", "--against-recon", "--config", "--output", "--limits"}


def options() -> Iterator[tuple[str, argparse.Action]]:
    commands = next(
        action
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for name, parser in commands.choices.items():
        if name == "doctor":  # what it is given wrong is what it finds: tests/gadgets/doctor
            continue
        for action in parser._actions:
            if action.nargs != 0:
                yield name, action


def named(action: argparse.Action) -> str:
    return max(action.option_strings, key=len) if action.option_strings else action.dest


def cases() -> Iterator[Any]:
    for command, action in options():
        option = named(action)
        for value in WRONG.get(f"{command} {option}", WRONG.get(option, [])):
            yield pytest.param(command, option, value, id=f"{command} {option} {value[:20]}")


def test_every_option_of_every_command_has_its_mistakes_listed() -> None:
    without = {
        f"{command} {named(action)}"
        for command, action in options()
        if f"{command} {named(action)}" not in WRONG and named(action) not in WRONG
    }
    assert not without


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("places")
    scan = source(n_slices=1)
    write_mrd(folder / "raw.h5", scan.header, scan.acquisitions)
    (folder / "text").write_text("notes")
    (folder / "full").mkdir()
    (folder / "full" / "x").touch()
    (folder / "shut").mkdir(mode=0o500)
    from gadgets.files.source import write_images
    from tests.gadgets.export.test_export import image

    write_images(folder / "images.h5", [image()], "mnet")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return {
        "RAW": str(folder / "raw.h5"),
        "IMAGES": str(folder / "images.h5"),
        "TEXT": str(folder / "text"),
        "FILE": str(folder / "text"),
        "FULL": str(folder / "full"),
        "SHUT": str(folder / "shut"),
        "MISSING": str(folder / "no_such"),
        "CLOSED": f"127.0.0.1:{port}",
    }


def placed(text: str, places: dict[str, str]) -> str:
    first, _, rest = text.partition("/")
    return places.get(first, first) + (f"/{rest}" if rest else "")


@pytest.mark.parametrize(("command", "option", "value"), list(cases()))
def test_a_mistake_is_one_sentence_before_any_work(
    command: str,
    option: str,
    value: str,
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if value.startswith("SHUT") and os.geteuid() == 0:
        real = os.access
        monkeypatch.setattr(  # root may write everywhere
            os, "access", lambda path, mode: places["SHUT"] not in str(path) and real(path, mode)
        )
    if value.startswith("cuda"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    for work in ("gadgets.host.child_host.private_host", "gadgets.host.serve.Host"):
        monkeypatch.setattr(work, began)
    monkeypatch.setattr("gadgets.scanner.demo_scan.demo_volume", began)
    given = NEEDS.get(command, [])
    if option in BESIDE and option in given:
        at = given.index(option)
        given = given[:at] + given[at + 2 :]
    if not option.startswith("-"):
        given = ["target.h5"] if (command, option) == ("convert", "source") else []
        given = ["RAW"] if (command, option) == ("convert", "target") else given
    elif option == "--against-recon":
        given = []
    words = [command, *(placed(word, places) for word in given)]
    wrong = placed(value, places)
    if not option.startswith("-"):
        words.insert(2 if given == ["RAW"] else 1, wrong)
        words += ["--dicom", "dicom"] if command == "export" else []
    else:
        words.append(f"{option}={wrong}")
    if option == "--mask-keys" and command in ("scan", "demo", "replay"):
        words += ["--host=127.0.0.1:9", "--mask-endpoint=tcp://127.0.0.1:9"]
    if option == "--host":
        words += ["--mask-endpoint=tcp://127.0.0.1:9"]
    try:
        status = cli.main(words)
    except SystemExit as end:
        status = end.code  # type: ignore[assignment]
    said = capsys.readouterr().err.strip()
    assert status in (1, 2), words
    assert len(said.splitlines()) == 1, said
    assert said.startswith(f"mnet {command}: "), said
    assert "Traceback" not in said
    assert len(said) < 600 + len(str(tmp_path))
    assert not [path.name for path in tmp_path.iterdir()]


def began(*_: object, **__: object) -> NoReturn:
    raise AssertionError("the work has begun")
