"""Image, systemd unit, FIRE and Open Recon: what they name exists, and what they run parses."""

import base64
import importlib.util
import inspect
import json
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
import tomllib
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

from gadgets.cli import _parser
from gadgets.commands import values
from gadgets.host import serve
from gadgets.host.fire_dialect import request
from gadgets.host.prometheus import Metrics
from gadgets.pipeline.build import load, parse
from gadgets.steps.predict_mask import PredictMask

ROOT = Path(__file__).parents[3]
SIEMENS = ROOT / "vendor/siemens"
UNIT = ROOT / "scripts/mnet.service"


def host_options(command: list[str]) -> Namespace:
    """What `mnet` makes of a command; it fails the test where that is an error."""
    assert Path(command[0]).name == "mnet"
    with pytest.MonkeyPatch.context() as patched:  # folders of another machine are not here
        patched.setattr(values, "check_by_name", lambda commands: None)
        return _parser().parse_args(command[1:])


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def one(name: str) -> str:
    (rest,) = [rest for each, rest in instructions() if each == name]
    return rest


def test_the_image_copies_what_exists_is_committed_and_is_let_through() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*", (
        "nothing that is not named can slip in: keys, records, weights in training"
    )
    passed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source for each, rest in instructions() if each == "COPY" for source in rest.split()[:-1]
    }
    assert copied == passed
    for source in copied:
        assert (ROOT / source).exists()
        if (ROOT / ".git").exists():
            listed = subprocess.run(
                ["git", "ls-files", source], cwd=ROOT, capture_output=True, check=True
            )
            assert listed.stdout, f"{source} is not committed"


def test_the_image_is_made_of_everything_that_setuptools_packs() -> None:
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {pattern.rstrip("*") for pattern in packed["packages"]["find"]["include"]}
    folders |= {Path(page).parts[0] for pages in packed["data-files"].values() for page in pages}
    assert folders == {rest.split()[0] for each, rest in instructions() if each == "COPY"} - {
        "pyproject.toml"
    }


def test_the_image_runs_a_host_that_its_health_check_asks_and_not_as_root() -> None:
    command = json.loads(one("ENTRYPOINT")) + json.loads(one("CMD"))
    options = host_options(command)
    assert options.command == "serve"
    assert one("USER") not in ("root", "0")
    for folder in (options.records, options.noise):
        assert folder.is_relative_to(one("VOLUME"))
    assert f"127.0.0.1:{options.status_port}/healthz" in one("HEALTHCHECK")
    check = json.loads(one("HEALTHCHECK").partition("CMD ")[2])
    compile(check[2], "health check", "exec")


def test_the_image_is_pinned_and_holds_no_secret() -> None:
    assert re.fullmatch(r"python:3\.\d+-slim", one("FROM"))
    (install,) = [rest for each, rest in instructions() if each == "RUN" and "pip" in rest]
    assert "-c constraints.txt" in install
    assert "torch==" in (ROOT / "constraints.txt").read_text()
    assert not re.search("secret|token|password|BEGIN", (ROOT / "Dockerfile").read_text(), re.I)
    assert not [each for each, _ in instructions() if each in ("ENV", "ADD")]
    for folder in ("mnet", "gadgets", "xml_configs"):
        assert not [p for p in (ROOT / folder).rglob("*") if p.suffix in (".key", ".pem", ".env")]


def unit() -> dict[str, list[str]]:
    entries: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            entries.setdefault(name, []).append(value)
    return entries


def test_the_unit_runs_a_host_on_loopback_that_writes_only_where_it_may() -> None:
    entries = unit()
    options = host_options(shlex.split(entries["ExecStart"][0]))
    assert options.command == "serve"
    assert options.address == "127.0.0.1"
    state = Path("/var/lib") / entries["StateDirectory"][0]
    assert options.records.is_relative_to(state)
    assert options.noise.is_relative_to(state)
    assert entries["User"] != ["root"]
    assert entries["ProtectSystem"] == ["strict"]
    assert entries["CapabilityBoundingSet"] == [""]
    assert entries["IPAddressDeny"] == ["any"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_unit_and_rates_it_well(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/mnet/bin/mnet", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True
    )
    assert (verified.returncode, UNIT.name in verified.stderr) == (0, False), verified.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(copy)],
        capture_output=True,
        text=True,
    )
    if "unrecognized option" in rated.stderr:
        pytest.skip("an old systemd-analyze")
    assert rated.returncode == 0, rated.stdout[-200:]


def test_fire_starts_a_host_that_logs_where_it_is_told(tmp_path: Path) -> None:
    fake = tmp_path / "bin/mnet"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$TMPDIR" "$0" "$@"\n')
    fake.chmod(0o755)
    share, log = tmp_path / "share", tmp_path / "fire.log"
    environment = {"PATH": f"{fake.parent}:/usr/bin:/bin", "MNET_SHARE": str(share)}
    script = f". {SIEMENS / 'start_mnet.sh'}; wait"  # in this shell, to wait for its child
    subprocess.run(["sh", "-c", script, "fire", str(log)], env=environment, check=True, timeout=60)
    tmpdir, *command = log.read_text().split()
    options = host_options(command)
    assert (options.address, options.port) == ("0.0.0.0", 9002)
    assert options.address_is_guarded
    assert tmpdir == str(share)
    assert options.records == share / "saved_data"
    assert options.records.is_dir()


TOOLS = ("mke2fs", "debugfs", "e2fsck", "fakeroot")


@pytest.mark.skipif(
    any(shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin") is None for tool in TOOLS),
    reason="needs e2fsprogs and fakeroot",
)
def test_a_containers_files_become_a_sound_image_that_fire_can_start(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "usr/bin").mkdir(parents=True)
    (files / "usr/bin/tool").write_text("#!/bin/sh\n")
    (files / "usr/bin/tool").chmod(0o755)
    with tarfile.open(tmp_path / "mnet.tar", "w") as tar:
        tar.add(files, ".")
    image = tmp_path / "mnet.img"
    command = ["fakeroot", str(SIEMENS / "chroot_image.sh"), str(tmp_path / "mnet.tar"), str(image)]
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "TMPDIR": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)

    made = run(*command, "8")
    assert made.returncode == 0, made.stderr
    assert run("e2fsck", "-fn", str(image)).returncode == 0
    assert "Mode:  0755" in run("debugfs", "-R", "stat /usr/bin/tool", str(image)).stdout
    start = run("debugfs", "-R", "cat /opt/mnet/start_mnet.sh", str(image)).stdout
    assert start == (SIEMENS / "start_mnet.sh").read_text()
    random = run("debugfs", "-R", "stat /dev/urandom", str(image)).stdout
    assert "Type: character special    Mode:  0666" in random
    assert "User:     0" in random
    again = run(*command)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    assert [path.name for path in tmp_path.glob("tmp*")] == [], "nothing is left behind"


def test_a_host_is_imported_without_torch_so_that_its_ports_are_bound_when_fire_connects() -> None:
    program = "import sys, gadgets.cli, gadgets.host.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_the_scripts_can_be_executed() -> None:
    for path in SIEMENS.glob("*.sh"):
        assert path.stat().st_mode & stat.S_IXUSR


@pytest.fixture(scope="module")
def open_recon() -> ModuleType:
    spec = importlib.util.spec_from_file_location("label", SIEMENS / "open_recon_label.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_open_recon_gets_a_label_that_says_what_the_host_can(
    open_recon: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        open_recon.main(["--vendor", "Clinic", "--gpu-memory", "4000", "--version", "1.2.3"]) == 0
    )
    out, err = capsys.readouterr()
    match = re.search(r'^LABEL "(.*)"="(.*)"$', out, re.M)
    assert match is not None
    assert match[1].endswith("magneticresonance.openrecon.metadata:1.1.0")
    document = json.loads(base64.b64decode(match[2]))
    general, reconstruction = document["general"], document["reconstruction"]
    assert (general["vendor"], general["version"]) == ("Clinic", "1.2.3")
    assert all(isinstance(v, str) for v in general["regulatory_information"].values())
    assert reconstruction["transfer_protocol"] == {"protocol": "ISMRMRD", "version": "1.4.1"}
    assert (reconstruction["emitter"], reconstruction["injector"]) == ("raw", "image")
    assert (reconstruction["can_use_gpu"], reconstruction["min_count_required_gpus"]) == (True, 1)
    assert reconstruction["content_qualification_type"] == "RESEARCH"
    (config,) = document["parameters"]
    assert (config["id"], config["type"]) == ("config", "choice")
    choices = [value["id"] for value in config["values"]]
    assert config["default"] in choices
    for choice in choices:
        text = json.dumps({"parameters": {"config": choice}})
        gadgets = parse(load(request("openrecon", text).module + ".xml"))
        sends = [g for g in gadgets if isinstance(g, PredictMask) and g.mode == "prospective"]
        assert not sends, "Open Recon has no way back to the sequence"
    assert "OpenRecon_Clinic_mnet_V1.2.3" in err


def test_open_recon_runs_a_host_on_the_port_of_its_label(
    open_recon: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    open_recon.main(["--vendor", "Clinic", "--image", "mnet:cuda"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FROM mnet:cuda"
    assert "USER root" in lines, "Open Recon runs containers as root"
    (command,) = [line.removeprefix("CMD ") for line in lines if line.startswith("CMD ")]
    options = host_options(json.loads(command))
    open_recon.main(["--vendor", "Clinic", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert (options.address, options.port) == ("0.0.0.0", document["reconstruction"]["port"])
    assert options.address_is_guarded
    assert document["reconstruction"]["can_use_gpu"] is False


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--vendor", "two words"],
        ["--vendor", "Clinic", "--name", "under_score"],
        ["--vendor", "Clinic", "--version", "1.0-rc1"],
        ["--vendor", "Clinic", "--pipelines", "no_such"],
    ],
)
def test_open_recon_refuses_what_the_scanner_would(
    open_recon: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        open_recon.main(arguments)
    assert ended.value.code == 2
    assert "--" in capsys.readouterr().err


def test_the_page_runs_commands_that_exist_and_names_every_metric_that_there_is() -> None:
    page = (ROOT / "docs/deployment.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", page, re.M | re.S)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines()]
    found = [re.search(r"(?:^|/bin/|/data )(mnet [a-z].*)", line) for line in lines]
    commands = [match[1] for match in found if match]
    assert len(commands) > 3
    for command in commands:
        host_options(shlex.split(command))
    for path in re.findall(r"\b(?:vendor|scripts|docs|gadgets)/[\w/.]+\w", page):
        assert (ROOT / path).exists(), path
    names = {family.name for family in Metrics().registry.collect()}
    names |= {f"mnet_{name}" for name in re.findall(r'watch\("(\w+)"', inspect.getsource(serve))}
    assert len(names) > 15
    for name in names:
        shown = "process_*" if name.startswith("process_") else name
        assert f"`{shown}" in page, f"{name} is not on the page"
