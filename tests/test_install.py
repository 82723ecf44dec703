"""The commands of docs/install.md and of the Dockerfile end in the build of torch that they name.

Two folders on a local port stand in for the default index and for PyTorch's. Their packages are
empty; their names and versions are ours, with baits: a newer torch in both, and in PyTorch's, as in
the real one, an old version of something else.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = {
    canonicalize_name(name): version
    for name, _, version in (
        line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
    )
    if version
}
TORCH = PINS[canonicalize_name("torch")]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has one build")


def wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """Make an empty package, in the layout of an index."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    path = folder / name / f"{stem}-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            f"{stem}.dist-info/METADATA",
            metadata + "".join(f"Requires-Dist: {r}\n" for r in requires),
        )
        file.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{stem}.dist-info/RECORD", "")
    links = (f'<a href="{each.name}">{each.name}</a>' for each in path.parent.glob("*.whl"))
    (path.parent / "index.html").write_text(f"<!DOCTYPE html><html>{''.join(links)}</html>")
    return path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve `/default` and `/cpu`; gives the address before them."""
    root = tmp_path_factory.mktemp("indexes")
    declared = PROJECT["project"]["dependencies"] + [
        line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines
    ]
    for each in map(Requirement, declared):
        name = canonicalize_name(each.name)
        if name != "torch":
            newest = max((spec.version for spec in each.specifier), default="1.0")
            wheel(root / "default", name, PINS.get(name, newest))
    wheel(root / "default", "cuda-libraries", "13.0")
    for version in (TORCH, "99.0"):
        wheel(root / "default", "torch", version, "cuda-libraries")
        wheel(root / "cpu", "torch", f"{version}+cpu")
    wheel(root / "cpu", "numpy", "1.0")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def checkout(indexes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a build reads of ours; PyTorch's index is the local one."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("README.md", "LICENSE", "constraints.txt", "setup.py", "Makefile"):
        shutil.copy(ROOT / name, folder)
    for paths in PROJECT["tool"]["setuptools"]["data-files"].values():
        for path in paths:
            (folder / path).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    text = (ROOT / "pyproject.toml").read_text()
    assert CPU_INDEX in text
    (folder / "pyproject.toml").write_text(text.replace(CPU_INDEX, f"{indexes}/cpu"))
    return folder


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run with nothing of this machine's settings of pip and uv."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
        "UV_HTTP_RETRIES": "0",
        "UV_NO_PROGRESS": "1",
    }
    return subprocess.run(
        command, cwd=folder, env=environment | more, capture_output=True, text=True, timeout=120
    )


def pip(arguments: list[str], indexes: str, folder: Path) -> dict[str, str]:
    """Say which versions `pip install` would put into an empty environment."""
    only_say = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = run(
        [sys.executable, "-m", "pip", "install", *only_say, "--no-build-isolation", *arguments],
        folder,
        PIP_INDEX_URL=f"{indexes}/default",
    )
    assert done.returncode == 0, done.stderr
    made = [each["metadata"] for each in json.loads(done.stdout)["install"]]
    return {canonicalize_name(each["name"]): each["version"] for each in made}


def uv(arguments: list[str], indexes: str, folder: Path) -> dict[str, str]:
    """Say which versions `uv pip install` or `uv sync` would put into an empty environment."""
    program = pytest.importorskip("uv").find_uv_bin()
    environment = {"UV_DEFAULT_INDEX": f"{indexes}/default", "UV_CACHE_DIR": str(folder / "cache")}
    made = run([program, "venv", "--clear", "--python", sys.executable], folder, **environment)
    assert made.returncode == 0, made.stderr
    done = run([program, *arguments, "--dry-run"], folder, **environment)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^ \+ ([\w-]+)==(\S+)$", done.stderr, re.M))


COMMANDS = {
    "pip": pip,
    "uv": lambda arguments, *where: uv(["pip", "install", *arguments], *where),
}


def documented(program: str) -> list[list[str]]:
    page = (ROOT / "docs/install.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", page, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(f"{program} ")]


def with_build(commands: list[list[str]], build: str) -> list[list[str]]:
    return [each for each in commands if re.search(rf"\b{build}\b", " ".join(each))]


VERSION = {"cpu": f"{TORCH}+cpu", "cuda": TORCH}


def assert_build(made: dict[str, str], build: str, numpy: str = PINS["numpy"]) -> None:
    assert made["torch"] == VERSION[build]
    assert ("cuda-libraries" in made) == (build == "cuda")
    assert made["numpy"] == numpy
    assert "nilearn" in made, "the demo's anatomy"


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_pip_ends_in_the_build_that_the_page_names(
    build: str, indexes: str, checkout: Path
) -> None:
    commands = [c for c in documented("pip install") if c[-1].startswith(".")]
    (command,) = with_build([c[2:] for c in commands], build)
    local = [word.replace(CPU_INDEX, f"{indexes}/cpu") for word in command]
    assert_build(pip(local, indexes, checkout), build)


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_uv_ends_in_the_build_that_the_page_names(build: str, indexes: str, checkout: Path) -> None:
    (command,) = with_build(documented("uv pip install"), build)
    assert_build(uv(command[1:], indexes, checkout), build)


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_uv_syncs_the_build_that_the_page_names(build: str, indexes: str, checkout: Path) -> None:
    (command,) = with_build(documented("uv sync"), build)
    assert_build(uv(command[1:], indexes, checkout), build)


@pytest.mark.parametrize("program", ["pip", "uv"])
def test_the_other_build_is_never_taken_where_pytorchs_index_cannot_be_reached(
    program: str, indexes: str, checkout: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkout, tmp_path, dirs_exist_ok=True)
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace(f"{indexes}/cpu", f"{indexes}/gone"))
    index = ["--extra-index-url", f"{indexes}/gone"] if program == "pip" else []
    with pytest.raises(AssertionError, match=r"ResolutionImpossible|torch was not found"):
        COMMANDS[program]([*index, "-c", "constraints.txt", ".[cpu]"], indexes, tmp_path)


def test_cuda_is_any_build_of_that_version_but_the_cpus(indexes: str, checkout: Path) -> None:
    (line,) = PROJECT["project"]["optional-dependencies"]["cuda"]
    taken = Requirement(line).specifier
    assert TORCH in taken
    assert f"{TORCH}+cu126" in taken
    assert VERSION["cpu"] not in taken
    command = ["--extra-index-url", f"{indexes}/cpu", "-c", "constraints.txt", ".[cuda,demo]"]
    assert_build(pip(command, indexes, checkout), "cuda")


@pytest.mark.parametrize("program", ["pip", "uv"])
def test_a_wheel_keeps_the_build_that_went_first(
    program: str, indexes: str, checkout: Path, tmp_path: Path
) -> None:
    torch, ours = [c[2:] for c in documented("pip install") if not c[-1].startswith(".")]
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    assert run([sys.executable, "-c", build], checkout).returncode == 0
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = str(tmp_path / "env/bin/python")
    install = [sys.executable, "-m", "pip", "--python", python, "install"]
    if program == "uv":
        install = [pytest.importorskip("uv").find_uv_bin(), "pip", "install", "--python", python]
    for command in (torch, ours):
        done = run(
            install + [word.replace(CPU_INDEX, f"{indexes}/cpu") for word in command],
            checkout,
            PIP_INDEX_URL=f"{indexes}/default",
            UV_INDEX_URL=f"{indexes}/default",
            UV_CACHE_DIR=str(tmp_path / "cache"),
        )
        assert done.returncode == 0, done.stderr
    ask = "import importlib.metadata as m; print(*(m.version(n) for n in ('torch', 'numpy')))"
    found = run([python, "-c", ask], tmp_path).stdout.split()
    assert found == [VERSION["cpu"], PINS["numpy"]]


def container_install() -> str:
    """Return the shell's part of the image's `RUN` that installs, without what it clears away."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^RUN (.*pip install.*?) && rm ", text, re.M)
    return line


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_the_image_gets_the_build_that_it_is_asked_for(
    build: str, indexes: str, checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "pip").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run(["sh", "-c", container_install()], checkout, PATH=path, TORCH=build)
    command = [w.replace(CPU_INDEX, f"{indexes}/cpu") for w in done.stdout.splitlines()[1:]]
    made = pip(command, indexes, checkout)
    assert made["torch"] == VERSION[build]
    assert ("cuda-libraries" in made) == (build == "cuda")


def test_the_image_and_make_refuse_a_build_that_they_do_not_know(checkout: Path) -> None:
    container = run(["sh", "-c", container_install()], checkout, TORCH="rocm")
    make = run(["make", "-n", "setup", "TORCH=rocm"], checkout)
    for done in (container, make):
        assert done.returncode != 0
        assert "TORCH is 'rocm', expected cpu or cuda" in done.stderr


def planned(checkout: Path, *arguments: str) -> str:
    done = run(["make", "-n", "setup", *arguments], checkout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_takes_the_cpus_build_at_first_and_later_the_one_that_is_there(
    checkout: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkout, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".venv"))
    first, other = planned(tmp_path), planned(tmp_path, "TORCH=cuda")
    assert f"--no-deps --index-url {CPU_INDEX} {VERSION['cpu']}" in first.replace("torch==", "")
    assert ".[cpu," in first
    assert CPU_INDEX not in other
    assert ".[cuda," in other
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.installed-cuda").touch()
    assert "pip install" not in planned(tmp_path)
    assert ".[cpu," in planned(tmp_path, "TORCH=cpu")
    (tmp_path / "constraints.txt").touch()
    assert ".[cuda," in planned(tmp_path)
