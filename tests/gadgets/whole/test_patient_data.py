"""Every byte that a host and its tools write, records aside: none of it names the patient."""

import json
import socket
import subprocess
import sys
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gadgets.errors import GadgetsError, place_of, traces_of
from gadgets.files.source import write_mrd
from gadgets.host.child_host import Address
from gadgets.mask.codec import MAGIC
from gadgets.mask.messages import ErrorMessage
from gadgets.mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Header,
    Message,
    Text,
    write_message,
)
from gadgets.pipeline.build import load
from tests.gadgets.helpers.closed_loop import source
from tests.gadgets.helpers.mask_bench import RawPeer
from tests.gadgets.helpers.patient import MARK, personal_header
from tests.gadgets.helpers.peer import session
from tests.gadgets.helpers.processes import serving
from tests.gadgets.helpers.synthetic import changed, noise

SCAN = source(1)
HEADER = personal_header(SCAN.header)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A host as `mnet serve` is started beside a scanner."""

    address: Address
    status_port: int
    folder: Path  # of everything that it writes

    @property
    def log(self) -> str:
        return (self.folder / "host.log").read_text()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("host")
    options = ["--records", str(folder / "records"), "--noise", str(folder / "noise")]
    options += ["--status-port", "0", "--allow-inline-config", "--log-json"]
    with (folder / "host.log").open("wb") as log, serving(*options, stderr=log) as (_, ports):
        yield Running(
            address=Address(
                host="127.0.0.1", port=ports["port"], mask_endpoint=ports["mask_endpoint"]
            ),
            status_port=ports["status_port"],
            folder=folder,
        )


def written(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, records aside, and every name of one."""
    files = [path for path in folder.rglob("*") if "records" not in path.parts]
    found = {str(path): path.read_bytes() for path in files if path.is_file()}
    return found | {f"name of {path}": path.name.encode() for path in files}


def naming(content: dict[str, bytes]) -> list[str]:
    return [name for name, data in content.items() if MARK.encode() in data]


def test_a_scan_s_log_report_images_metrics_and_noise_do_not_name_the_patient(
    running: Running, tmp_path: Path
) -> None:
    header = personal_header(SCAN.header, token="")
    write_mrd(tmp_path / "scan.h5", header, [noise(4), *SCAN.acquisitions])
    command = [sys.executable, "-m", "gadgets.cli", "scan", "scan.h5", "--acceleration", "2"]
    command += ["--host", f"127.0.0.1:{running.address.port}", "--tr-ms", "0", "--seeds", "1"]
    command += ["--mask-endpoint", running.address.mask_endpoint]
    command += ["--report", "report.html", "--json", "scan.json", "--output", "images.h5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "scan.h5").unlink()
    made = written(tmp_path)
    assert {"report.html", "scan.json", "images.h5"} <= {Path(name).name for name in made}
    with urllib.request.urlopen(f"http://127.0.0.1:{running.status_port}/metrics") as answer:
        made["metrics"] = answer.read()
    assert b"mnet_images_total" in made["metrics"]
    made |= written(running.folder) | {"out": done.stdout, "err": done.stderr}
    assert naming(made) == []
    assert any(MARK.encode() in path.read_bytes() for path in running.folder.rglob("messages.log"))


def broken(old: bytes, new: str) -> Header:
    assert old in HEADER
    return Header(HEADER.replace(old, new.encode(), 1))


def json_text(**values: object) -> Text:
    return Text(json.dumps({"parameters": values}))


LINES = SCAN.acquisitions
FEWER = replace(changed(LINES[0], active_channels=2), data=LINES[0].data[:2])
FIRE, XML = ConfigFile("cg_sense"), ConfigFile("cg_sense.xml")
HELLO = {"ky_min": MARK, "ky_max": 3}
SAID: dict[str, list[Message]] = {
    "no such pipeline": [ConfigFile(f"{MARK}.xml"), Header(HEADER)],
    "no such module": [ConfigFile(MARK), Header(HEADER), *LINES],
    "no such class": [ConfigScript(load("default.xml").replace("ImageFinish", MARK).encode())],
    "inline XML that is cut": [ConfigScript(f"<configuration><{MARK}".encode())],
    "no such reader": [ConfigScript(load("default.xml").replace("Acq", MARK).encode())],
    "header cut": [XML, Header(HEADER[:-30])],
    "header of an unknown encoding": [
        XML,
        Header(f'<?xml version="1.0" encoding="{MARK}"?><ismrmrdHeader/>'.encode()),
    ],
    "another root": [XML, Header(f"<{MARK}/>".encode())],
    "no number": [XML, broken(b"<x>96", f"<x>{MARK}")],
    "no trajectory": [XML, broken(b">cartesian", f">{MARK}")],
    "no coil number": [XML, broken(b"<receiverChannels>4", f"<receiverChannels>{MARK}")],
    "FIRE: no such parameter": [FIRE, Header(HEADER), json_text(patient=MARK), *LINES],
    "FIRE: no such value": [FIRE, Header(HEADER), json_text(lam=MARK), *LINES],
    "FIRE: a list": [FIRE, Header(HEADER), json_text(lam=[MARK]), *LINES],
    "FIRE: name as key": [FIRE, Header(HEADER), json_text(**{MARK: 1}), *LINES],
    "FIRE: weights": [
        ConfigFile("adaptive_modl"),
        Header(HEADER),
        json_text(weights=f"/patients/{MARK}"),
        *LINES,
    ],
    "FIRE: no JSON": [FIRE, Header(HEADER), Text(f'{{"parameters": {MARK}'), *LINES],
    "FIRE: hello": [
        ConfigFile("adaptive_modl"),
        Header(HEADER),
        json_text(mnet_hello=HELLO, feedback="mrd1028"),
        *LINES,
    ],
    "too late": [XML, Header(HEADER), *LINES[:3], json_text(config=MARK), *LINES],
    "a remark": [XML, Header(HEADER), Text(f"patient {MARK}"), *LINES],
    "other coils": [XML, Header(HEADER), FEWER, *LINES],
    "other counters": [
        XML,
        Header(HEADER),
        *[changed(line, kspace_encode_step_1=60000) for line in LINES],
    ],
}


@pytest.mark.parametrize("case", SAID)
def test_what_a_client_says_is_told_the_client_and_not_the_log(case: str, running: Running) -> None:
    before = len(running.log)
    heard = session(running.address, *SAID[case], Close())
    errors = [message.text for message in heard if isinstance(message, Text)]
    lines = running.log[before:]
    assert MARK not in lines
    if errors and "ERROR" in errors[0]:
        assert any(json.loads(line)["level"] == "ERROR" for line in lines.splitlines()), lines
    with urllib.request.urlopen(f"http://127.0.0.1:{running.status_port}/metrics") as answer:
        assert MARK.encode() not in answer.read()


def test_a_client_still_learns_all_and_the_record_too(running: Running) -> None:
    heard = session(running.address, *SAID["FIRE: no such parameter"], Close())
    assert any(isinstance(m, Text) and "does not know: patient;" in m.text for m in heard)
    (told,) = [m.text for m in session(running.address, *SAID["no such pipeline"], Close())[:1]]  # type: ignore[union-attr]
    assert f"no pipeline '{MARK}.xml'" in told
    session(running.address, XML, Header(HEADER), *LINES[:2], json_text(config=MARK), Close())
    summaries = [path.read_text() for path in running.folder.rglob("scan.json")]
    assert any("parameters in JSON came too late" in text for text in summaries)


@pytest.mark.parametrize(
    "frames",
    [
        [MARK.encode()],
        [MAGIC, MARK.encode(), b""],
        [MAGIC, json.dumps({"schema": "adaptive-mask/1", "kind": MARK}).encode(), b""],
        [MAGIC, json.dumps({"schema": "adaptive-mask/1", "kind": "hello", MARK: 1}).encode(), b""],
    ],
)
def test_what_a_sequence_says_is_answered_and_not_logged(
    frames: list[bytes], running: Running
) -> None:
    before = len(running.log)
    with RawPeer(running.address.mask_endpoint) as peer:
        peer.socket.send_multipart(frames)
        peer.hear(ErrorMessage)
    assert "dropped a message" in running.log  # the first ones are told, then fewer and fewer
    assert MARK not in running.log[before:]


def test_bytes_that_are_no_message_are_not_logged(running: Running) -> None:
    before = len(running.log)
    address = running.address.host, running.address.port
    with socket.create_connection(address, timeout=60) as sock, suppress(OSError):
        sock.sendall(write_message(XML) + b"\xff\xff" + MARK.encode() * 100)
        while sock.recv(1 << 16):
            pass
    assert '"ERROR"' in running.log[before:]
    assert MARK not in running.log[before:]


def test_a_place_names_the_statement_and_none_of_its_values() -> None:
    try:
        raise GadgetsError(f"patient {MARK}")
    except GadgetsError as error:
        said = place_of(error)
    assert said.startswith("GadgetsError in gadgets/whole/test_patient_data.py, line ")
    assert said.endswith('raise GadgetsError(f"patient {MARK}")')
    assert place_of(ValueError(MARK)) == "ValueError"


def test_a_place_is_named_where_python_knows_no_ends_of_statements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python 3.10, Gadgetron's own: what failed was not told, for the telling failed."""

    def extract(trace: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(filename="a/b/c.py", lineno=7)]

    monkeypatch.setattr(traceback, "extract_tb", extract)
    assert place_of(ValueError(MARK)) == "ValueError in a/b/c.py, line 7: "


def test_a_traceback_has_its_causes_and_none_of_their_messages() -> None:
    try:
        try:
            float(f"{MARK}")
        except ValueError as cause:
            raise GadgetsError(f"{cause}") from cause
    except GadgetsError as error:
        trace = traces_of(error)
    assert trace.index("ValueError") < trace.index("which led to")
    assert trace.endswith("GadgetsError")
    assert f"'{MARK}'" not in trace
    assert "could not convert" not in trace
