"""What a package of this project holds, and what its files say of each other."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from gadgets.cli import _parser

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKED = PROJECT["tool"]["setuptools"]
IGNORED = shutil.ignore_patterns("__pycache__", "open")  # the study that training writes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Build the wheel from a copy; gives its files by name, the share of data among them."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("gadgets", "mnet", "training", "tests", "xml_configs", "docs", "vendor"):
        shutil.copytree(ROOT / package, folder / package, ignore=IGNORED, symlinks=True)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    program = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "would be ignored" not in done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_wheel_holds_every_module_and_what_modules_read(wheel: dict[str, bytes]) -> None:
    kinds = (".py", *(pattern.lstrip("*") for pattern in PACKED["package-data"]["*"]))
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("gadgets", "mnet", "xml_configs")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.name.endswith(kinds)
    }
    left_out = {
        str(path.relative_to(ROOT))
        for package in ("gadgets", "mnet", "xml_configs")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } - wanted
    assert not left_out, "a kind of file that package-data does not name"
    assert wanted <= set(wheel)


def test_the_wheel_installs_nothing_else(wheel: dict[str, bytes]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {
        "gadgets",
        "mnet",
        "xml_configs",
        "mnet_gadgets",  # its metadata, and what goes to share/doc
    }


def test_the_wheel_brings_the_pages_and_clients_that_help_speaks_of(
    wheel: dict[str, bytes],
) -> None:
    commands = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    texts = [command.format_help() for command in commands[0].choices.values()]
    spoken_of = set(re.findall(r"\b(?:docs|vendor)/[\w.-]+\w", "\n".join(texts)))
    assert "docs/mask-channel.md" in spoken_of
    for name in spoken_of:
        (packed,) = [each for each in wheel if each.endswith(f"share/doc/mnet-gadgets/{name}")]
        assert wheel[packed] == (ROOT / name).read_bytes()


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == version
    released = re.search(r'^date-released: "(.*)"$', citation, re.M)[1]
    assert f"\n## [{version}] - {released}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_what_is_installed_keeps_to_the_oldest_python_that_it_names() -> None:
    """Gadgetron's own environment has 3.10, which the tests do not run on."""
    pytest.importorskip("vermin")
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    program = "from vermin.main import main; main()"
    command = [sys.executable, "-c", program, "--quiet", "--no-tips", f"--target={oldest}-"]
    done = subprocess.run(
        [*command, "--violations", "gadgets", "mnet", "xml_configs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_extras_ask_for_the_torch_that_constraints_name() -> None:
    pins = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    for build in ("cpu", "cuda"):
        (line,) = PROJECT["project"]["optional-dependencies"][build]
        assert re.match(rf"torch=={re.escape(pins['torch'])}\b", line)


def test_the_hooks_of_pre_commit_are_the_steps_of_scripts_check() -> None:
    yaml = pytest.importorskip("yaml")
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    script = (ROOT / "scripts/check").read_text()
    steps = [shlex.split(line[1:]) for line in script.splitlines() if line.startswith("$bin/")]
    hooks = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    assert hooks == [[f".venv/{step[0]}", *step[1:]] for step in steps]
