"""Each usual mistake is found, named, and comes with what to do."""

import importlib.metadata
import json
import os
import shlex
import shutil
import socket
from argparse import Namespace
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gadgets.cli import main
from gadgets.doctor import checks, machine
from gadgets.doctor.machine import Finding, Torch
from gadgets.host.health_server import StatusServer
from gadgets.mask.curve_keys import make_keys
from gadgets.pipeline.catalogue import OURS
from mnet import weight_files


def options(**given: object) -> Namespace:
    values: dict[str, object] = {
        "address": "127.0.0.1",
        "address_is_guarded": False,
        "port": 0,
        "external": None,
        "mask_endpoint": "tcp://127.0.0.1:*",
        "mask_keys": None,
        "records": None,
        "noise": None,
        "pipelines": None,
        "gadgets": None,
        "device": "cpu",
        "status_port": None,
        "monitor_port": None,
        "gadgetron": False,
    }
    assert given.keys() <= values.keys()
    return Namespace(**values | given)


def wrong(findings: Iterator[Finding], level: str = "error") -> Finding:
    """The one finding of a level; it says what to do."""
    (found,) = [finding for finding in findings if finding.level == level]
    assert found.fix
    return found


def fine(findings: Iterator[Finding]) -> bool:
    return {finding.level for finding in findings} == {"ok"}


def test_a_sound_installation_has_no_error_and_status_0(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sound = ["--port", "0", "--mask-endpoint", "tcp://127.0.0.1:*", "--device", "cpu"]
    arguments = ["doctor", *sound, "--noise", str(tmp_path), "--records", str(tmp_path / "new")]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["errors"] == 0
    checks = {finding["check"] for finding in document["findings"]}
    assert checks >= {"torch", "packages", "pipelines", "weights", "mask", "reconstruction", "keys"}
    of_this_machine = {"records", "cores"}  # small disks and machines pass too
    others = [f for f in document["findings"] if f["check"] not in of_this_machine]
    assert {f["level"] for f in others} == {"ok"}


def test_an_error_is_printed_with_its_remedy_and_ends_with_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Finding("ok", "a", "well"), Finding("error", "b", "ill", "a pill")]
    monkeypatch.setattr(checks, "examine", lambda options: iter(found))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok      a: well",
        "error   b: ill",
        "        -> a pill",
    ]
    found[1] = Finding("warning", "b", "pale", "rest")
    assert main(["doctor"]) == 0


CPU = Torch(version="2.13.0+cpu", cuda=None, n_devices=0, gpu=False, visible=None)
CUDA = Torch(version="2.13.0", cuda="13.0", n_devices=0, gpu=False, visible=None)
WORKS = Torch(version="2.13.0", cuda="13.0", n_devices=1, gpu=True, visible=None)


@pytest.mark.parametrize(
    ("torch", "device", "level", "word"),
    [
        (CPU, "cpu", "ok", ""),
        (CPU, "auto", "ok", ""),
        (CPU, "cuda", "error", "built for the CPU"),
        (CPU, "cuda:1", "error", "built for the CPU"),
        (CPU, "gpu", "error", "auto, cpu, cuda"),
        (CPU, "cuda:x", "error", "auto, cpu, cuda"),
        (CUDA, "auto", "ok", ""),
        (CUDA, "cuda", "error", "--gpus all"),
        (WORKS, "auto", "ok", ""),
        (WORKS, "cuda:0", "ok", ""),
        (WORKS, "cuda:1", "error", "cuda:0"),
    ],
)
def test_torch_is_judged_by_the_device_that_is_asked_for(
    torch: Torch, device: str, level: str, word: str
) -> None:
    finding = machine.gpu(torch, device)
    assert finding.level == level
    assert word in finding.fix


@pytest.mark.parametrize(
    ("cuda", "visible", "word"),
    [
        (None, None, "built for the CPU"),
        ("13.0", "", "CUDA_VISIBLE_DEVICES"),
        ("13.0", "-1", "CUDA_VISIBLE_DEVICES"),
        ("13.0", None, "driver does not fit CUDA 13.0"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_a_warning_where_the_cpu_will_do(
    cuda: str | None, visible: str | None, word: str
) -> None:
    torch = Torch(version="2.13.0", cuda=cuda, n_devices=0, gpu=True, visible=visible)
    finding = machine.gpu(torch, "auto")
    assert (finding.level, word in finding.fix) == ("warning", True)
    assert machine.gpu(torch, "cuda").level == "error"


@pytest.mark.parametrize(
    "error", [ImportError("libcudart"), OSError("libc10"), RuntimeError("/dev/urandom")]
)
def test_a_torch_that_cannot_be_imported_is_found_and_what_needs_it_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def look() -> Torch:
        raise error

    monkeypatch.setattr(Torch, "look", look)
    findings = list(checks.examine(options(noise=tmp_path)))
    assert str(error) in wrong(iter(findings)).text
    assert not {"weights", "mask", "reconstruction"} & {f.check for f in findings}


def test_missing_packages_are_named_and_those_of_extras_are_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = ["torch>=2.4", "no-such-package>=1 ; python_version > '3'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    assert "no-such-package" in wrong(machine.packages()).fix
    wanted[1] = 'no-such-package>=1; extra == "demo"'
    (finding,) = machine.packages()
    assert (finding.level, "no-such-package" in finding.text) == ("ok", True)


def test_one_core_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    wrong(machine.cores(), "warning")


def returned(steps: Generator[Finding, None, Any]) -> tuple[list[Finding], Any]:
    found = []
    while True:
        try:
            found.append(next(steps))
        except StopIteration as end:
            return found, end.value


def test_a_pipeline_that_does_not_load_is_named_and_the_others_are_still_looked_at(
    tmp_path: Path,
) -> None:
    (tmp_path / "site.xml").write_text("<configuration><version>2</version><stream/>")
    found, names = returned(checks.pipelines(tmp_path, OURS))
    assert str(tmp_path / "site.xml") in wrong(iter(found)).text
    assert names >= {"mnet_select", "modl"}
    missing, _ = returned(checks.pipelines(tmp_path / "none", OURS))
    assert "no folder" in wrong(iter(missing)).text


@pytest.fixture
def weights_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(weight_files.folder(), tmp_path / "weights")
    monkeypatch.setattr(weight_files, "folder", lambda: copy)
    return copy


def test_weights_that_differ_from_their_card_are_found(weights_copy: Path) -> None:
    path = weights_copy / "modl.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    finding = wrong(checks.weights({"modl", "mnet_select"}))
    assert "modl: " in finding.text
    assert "sha256" in finding.text


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_weights_that_are_missing_are_found_and_so_is_what_cannot_work_then(
    weights_copy: Path, suffix: str
) -> None:
    for name in ("mnet_select", "modl"):
        (weights_copy / name).with_suffix(suffix).unlink()
    assert "missing" in wrong(checks.weights({"modl"})).text
    found = [finding.check for finding in checks.models("cpu") if finding.level == "error"]
    assert found == ["mask", "reconstruction"]


def test_keys_that_others_can_read_or_add_are_found(tmp_path: Path) -> None:
    make_keys(tmp_path, ["scanner"])
    given = options(mask_keys=tmp_path / "host", mask_endpoint="tcp://0.0.0.0:*")
    assert fine(checks.keys(given))
    (tmp_path / "host/allowed").chmod(0o777)
    assert "let themselves in" in wrong(checks.keys(given)).text
    (tmp_path / "host/allowed").chmod(0o755)
    (tmp_path / "host/server.key").chmod(0o644)
    assert "can be read by others" in wrong(checks.keys(given)).text
    (tmp_path / "host/server.key").unlink()
    assert "mnet keys" in wrong(checks.keys(given)).fix


def test_an_endpoint_for_others_without_keys_is_an_error_and_an_open_mrd_port_a_warning() -> None:
    assert "mnet keys" in wrong(checks.keys(options(mask_endpoint="tcp://0.0.0.0:9004"))).fix
    assert "--address-is-guarded" in wrong(checks.keys(options(address="0.0.0.0"))).fix
    guarded = options(address="0.0.0.0", address_is_guarded=True)
    assert "firewall" in wrong(checks.keys(guarded), "warning").fix
    assert fine(checks.keys(options(address="::1")))


@pytest.mark.parametrize(
    "option", ["port", "external", "status_port", "monitor_port", "mask_endpoint"]
)
def test_a_port_that_is_taken_is_named(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        value = f"tcp://127.0.0.1:{port}" if option == "mask_endpoint" else port
        finding = wrong(checks.running(options(**{option: value})))
    assert f"--{option.replace('_', '-')} 127.0.0.1:{port}" in finding.text
    assert f"sport = :{port}" in finding.fix


def test_two_of_our_own_ports_that_are_one_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = options(port=port, mask_endpoint=f"tcp://127.0.0.1:{port}")
    assert "--mask-endpoint" in wrong(checks.running(given)).text


def test_one_port_for_status_and_monitor_is_one_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert fine(checks.running(options(status_port=port, monitor_port=port)))


def test_a_page_without_its_packages_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(checks.monitor(None)) == []
    monkeypatch.setattr("gadgets.monitor.monitor.NEEDS", ("json",))
    assert fine(checks.monitor(9010))
    monkeypatch.setattr("gadgets.monitor.monitor.NEEDS", ("no_such_package",))
    assert "mnet-gadgets[monitor]" in wrong(checks.monitor(9010)).fix


def test_an_address_of_another_machine_is_found() -> None:
    assert "ip -brief" in wrong(checks.running(options(address="192.0.2.1"))).fix


@pytest.mark.parametrize(("why", "level"), [("", "ok"), ("no weights", "error")])
def test_a_host_that_runs_is_asked_and_its_own_ports_are_not_called_taken(
    why: str, level: str
) -> None:
    server = StatusServer(0, trouble=str, unready=lambda: why, metrics=bytes)
    try:
        (finding,) = checks.running(options(status_port=server.port))
    finally:
        server.close()
    assert (finding.level, why in finding.text) == (level, True)


@pytest.mark.parametrize(
    ("free", "level"), [(1 << 20, "error"), (2 << 30, "warning"), (100 << 30, "ok")]
)
def test_disk_space_for_records_is_measured_where_they_will_lie(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, level: str
) -> None:
    asked = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    (finding,) = machine.disk("records", tmp_path / "a/b", 1 << 30, 8 << 30)
    assert asked == [tmp_path]
    assert (finding.level, bool(finding.fix)) == (level, level != "ok")
    assert not (tmp_path / "a").exists(), "the doctor changes nothing"


def test_a_folder_that_cannot_be_written_or_that_others_can_write_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    found = wrong(machine.disk("records", tmp_path, 0, 0), "warning")
    assert "other users" in found.text
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    leaf = tmp_path / "mnet"
    fix = wrong(machine.disk("records", tmp_path, 0, 0)).fix
    assert fix.startswith(f'sudo install -d -m 700 -o "$(id -un)" {leaf}, then --records {leaf}')


@pytest.mark.parametrize("folder", ["/var/lib/mnet/records", "/srv/my scans", "/"])
def test_no_folder_of_the_system_shall_change_its_owner(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    fix = wrong(machine.disk("records", Path(folder), 0, 0)).fix
    assert "chown" not in fix
    made = shlex.split(fix.partition(",")[0])[-1]
    assert made == ("/mnet" if folder == "/" else folder), "the leaf, and nothing above it"
