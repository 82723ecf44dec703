"""What a C++ Gadgetron needs of us is looked at, and each lack comes with what to do."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gadgets.cli import main
from gadgets.doctor import gadgetron
from gadgets.gadgetron.folder import CONFIG, CONNECT, pipelines
from gadgets.mask.binder import MaskService
from tests.gadgets.doctor.test_checks import fine, options, wrong


def program(folder: Path, name: str, text: str = "exit 0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Gadgetron with our pipelines, as a conda environment has it."""
    program(tmp_path / "bin", "gadgetron")
    program(tmp_path / "bin", "mrd-storage-server")
    program(tmp_path / "bin", "python", f'exec "{sys.executable}" "$@"')
    (tmp_path / CONFIG).mkdir(parents=True)
    (tmp_path / CONFIG / "default.xml").write_text("<configuration/>")
    assert main(["install-gadgetron", str(tmp_path)]) == 0
    return tmp_path


@pytest.fixture
def listens() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def connecting(home: Path, port: int) -> None:
    """Have every pipeline of a Gadgetron connect to a port."""
    for path in (home / CONFIG).glob("gadgetron_*.xml"):
        path.write_text(path.read_text().replace('port="9003"', f'port="{port}"'))


def test_a_gadgetron_that_has_everything_is_told_so(home: Path, listens: int) -> None:
    connecting(home, listens)
    environment = {"PATH": str(home / "bin"), "OMP_WAIT_POLICY": "PASSIVE"}
    with MaskService("tcp://127.0.0.1:*") as service:
        found = list(gadgetron.gadgetron(options(mask_endpoint=service.endpoint), environment))
    assert not [finding for finding in found if finding.level == "error"], found
    assert wrong(iter(found), "warning").text.startswith("not there, or changed: ")
    assert f"the mask channel answers at {service.endpoint}" in [f.text for f in found]


def test_a_machine_without_gadgetron_is_told_what_was_looked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("GADGETRON_HOME", "CONDA_PREFIX", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gadgetron, "ANSWER_S", 0.2)
    asked = ["--mask-endpoint", "tcp://127.0.0.1:9", "--json"]
    assert main(["doctor", "--gadgetron", *asked]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {f["check"] for f in findings} == {
        "gadgetron",
        "python",
        "threads",
        "pipelines",
        "masks",
    }
    assert all(finding["fix"] for finding in findings)
    assert findings[-1]["text"] == "nobody answers at tcp://127.0.0.1:9"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('{"version": [3, 9], "missing": []}', "(3.9), expected 3.10 or later"),
        ('{"version": [3, 10], "missing": ["gadgets.external"]}', "which lacks gadgets.external"),
    ],
)
def test_the_python_that_gadgetron_would_start_is_asked_and_not_this_one(
    tmp_path: Path, answer: str, words: str
) -> None:
    named = program(tmp_path, "python", f"echo '{answer}'")
    finding = wrong(gadgetron.python(str(tmp_path)), "warning")
    assert str(named) in finding.text
    assert words in finding.text
    assert "<connect>" in finding.fix


def test_idle_threads_that_spin_are_found() -> None:
    assert fine(gadgetron.threads({"OMP_WAIT_POLICY": "passive"}))
    assert "not set" in wrong(gadgetron.threads({}), "warning").text
    assert "is ACTIVE" in wrong(gadgetron.threads({"OMP_WAIT_POLICY": "ACTIVE"}), "warning").text


def test_a_storage_server_that_is_not_there_is_found(tmp_path: Path) -> None:
    assert "mrd-storage-server" in wrong(gadgetron.storage(str(tmp_path), {})).text
    assert fine(gadgetron.storage("", {"GADGETRON_STORAGE_ADDRESS": "http://storage:9112"}))


def test_pipelines_that_are_not_there_are_found(tmp_path: Path) -> None:
    assert "mnet install-gadgetron" in wrong(gadgetron.configurations(tmp_path)).fix


@pytest.mark.parametrize(
    ("target", "said"), [(' target="Pipeline"', "has target='Pipeline'"), ("", "has no target")]
)
def test_a_target_by_which_scans_end_in_silence_is_found(
    tmp_path: Path, target: str, said: str
) -> None:
    text = pipelines()["gadgetron_adaptive_modl.xml"].decode()
    assert list(gadgetron.nodes(written(tmp_path, text))) == []
    changed = text.replace(' target="pipeline"', target)
    assert said in wrong(gadgetron.nodes(written(tmp_path, changed))).text


def written(folder: Path, text: str) -> Path:
    path = folder / "site.xml"
    path.write_text(text)
    return path


def test_a_host_that_a_pipeline_connects_to_is_looked_for_without_a_connection(
    tmp_path: Path,
) -> None:
    text = pipelines()[CONNECT].decode()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        path = written(tmp_path, text.replace('port="9003"', f'port="{port}"'))
        assert fine(gadgetron.nodes(path))
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert f"mnet serve --external {port}" in wrong(gadgetron.nodes(path)).fix


def test_a_node_of_somebody_else_is_none_of_our_business(tmp_path: Path) -> None:
    other = '<configuration><stream><external><execute name="theirs"/></external>{}</stream>{}'
    connect = '<external><connect port="1"/><configuration/></external>'
    assert list(gadgetron.nodes(written(tmp_path, other.format(connect, "</configuration>")))) == []
    assert list(gadgetron.nodes(written(tmp_path, "no XML"))) == []
