"""What `mnet doctor --gadgetron` looks at: a C++ Gadgetron whose pipelines name our node.

It is run where Gadgetron is started, with that environment: what counts is its PATH.
"""

import argparse
import json
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..errors import GadgetsError
from ..gadgetron.folder import CONFIG, CONNECT, is_other, pipelines
from ..mask.curve_keys import ClientKeys
from ..mask.recon_port import RemoteReconPort
from .machine import Finding

NODE, TARGET = "gadgets.external", "pipeline"
LISTENING = "0A"  # in /proc/net/tcp
ANSWER_S = 3.0
LOOK = """
import importlib.util, json, sys
def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
wanted = ["gadgetron", "gadgets.external", "torch", "zmq"]
print(json.dumps({"version": list(sys.version_info[:2]), "executable": sys.executable,
    "missing": [name for name in wanted if not there(name)]}))
"""


def gadgetron(options: argparse.Namespace, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look at everything that the C++ side needs of us, and we of it."""
    path = environment.get("PATH", "")
    program = shutil.which("gadgetron", path=path)
    if program is None:
        fix = "run the doctor where Gadgetron is started: conda activate gadgetron"
        yield Finding("warning", "gadgetron", "no program gadgetron on PATH", fix)
    else:
        yield Finding("ok", "gadgetron", program)
    yield from python(path)
    yield from threads(environment)
    if program is not None:
        yield from storage(path, environment)
    folder = home(program, environment)
    if folder is None:
        fix = "set GADGETRON_HOME, or run the doctor where Gadgetron is started"
        yield Finding("warning", "pipelines", "no share/gadgetron/config was found", fix)
    else:
        yield from configurations(folder)
    yield from masks(options)


def home(program: str | None, environment: Mapping[str, str]) -> Path | None:
    """Return the folder in which Gadgetron looks for pipelines, None where it is not found."""
    homes = [environment.get("GADGETRON_HOME"), environment.get("CONDA_PREFIX")]
    if program is not None:
        homes.append(str(Path(program).resolve().parents[1]))
    folders = [Path(each) / CONFIG for each in homes if each]
    return next((folder for folder in folders if folder.is_dir()), None)


def python(path: str) -> Iterator[Finding]:
    """Ask the Python that Gadgetron starts for `<execute type="python">`: the first on PATH."""
    program = shutil.which("python", path=path)
    fix = f"only for <execute>: a pipeline with <connect>, as {CONNECT}, needs none"
    if program is None:
        yield Finding("warning", "python", "Gadgetron finds no `python` on PATH", fix)
        return
    try:
        done = subprocess.run(
            [program, "-c", LOOK], capture_output=True, text=True, timeout=60, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        yield Finding("error", "python", f"{program} cannot be run: {error}", "see its error")
        return
    about = f"Gadgetron would start {program} ({'.'.join(map(str, found['version']))})"
    if found["version"] < [3, 10]:
        yield Finding("warning", "python", f"{about}, expected 3.10 or later", fix)
    elif found["missing"]:
        fix = f"{program} -m pip install mnet-gadgets; {fix}"
        missing = ", ".join(found["missing"])
        yield Finding("warning", "python", f"{about}, which lacks {missing}", fix)
    else:
        yield Finding("ok", "python", f"{about}, which has our node")


def threads(environment: Mapping[str, str]) -> Iterator[Finding]:
    """See whether idle threads of Gadgetron sleep or spin."""
    policy = environment.get("OMP_WAIT_POLICY", "")
    if policy.lower() == "passive":
        yield Finding("ok", "threads", "OMP_WAIT_POLICY is PASSIVE: idle threads sleep")
    else:
        text = f"OMP_WAIT_POLICY is {policy or 'not set'}: Gadgetron's idle threads spin"
        fix = "export OMP_WAIT_POLICY=PASSIVE before gadgetron, or masks wait for a free core"
        yield Finding("warning", "threads", text, fix)


def storage(path: str, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look for the storage server, without which Gadgetron 4.7 does not start."""
    address = environment.get("GADGETRON_STORAGE_ADDRESS")
    if address:
        yield Finding("ok", "storage", f"noise is kept at {address}")
    elif found := shutil.which("mrd-storage-server", path=path):
        yield Finding("ok", "storage", found)
    else:
        fix = "install it beside gadgetron (conda), or set GADGETRON_STORAGE_ADDRESS"
        yield Finding("error", "storage", "no program mrd-storage-server on PATH", fix)


def configurations(folder: Path) -> Iterator[Finding]:
    """Look at the pipelines in Gadgetron's folder that name our node."""
    install = f"mnet install-gadgetron {folder}"
    ours = pipelines()
    missing = [name for name in ours if not (folder / name).exists()]
    old = [name for name, text in ours.items() if is_other(folder / name, text)]
    if CONNECT in missing:
        yield Finding("error", "pipelines", f"{CONNECT} is not in {folder}", install)
    elif missing or old:
        text = f"not there, or changed: {', '.join([*missing, *old])}"
        yield Finding("warning", "pipelines", text, f"{install} --overwrite")
    else:
        yield Finding("ok", "pipelines", f"{len(ours)} in {folder}")
    for path in sorted(folder.glob("*.xml")):
        yield from nodes(path)


def nodes(path: Path) -> Iterator[Finding]:
    """Look at the external nodes of a pipeline that are ours, started or connected to."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError):
        return  # not ours to judge
    for node in root.iter("external"):
        execute, connect = node.find("execute"), node.find("connect")
        if execute is not None and execute.get("name") == NODE:
            yield from _target(path, execute.get("target"))
        elif connect is not None and _names_ours(node):
            yield from _connection(path, connect)


def _target(path: Path, target: str | None) -> Iterator[Finding]:
    if target != TARGET:
        said = "has no target" if target is None else f"has target={target!r}"
        text = f"{path.name} {said}: such scans end with status 0 and without an image"
        yield Finding("error", "pipelines", text, f'<execute name="{NODE}" target="{TARGET}" ...>')


def _names_ours(node: ElementTree.Element) -> bool:
    classes = {gadget.get("class", "") for gadget in node.iter("gadget")}
    return "PredictMask" in classes or "Reconstruct" in classes


def _connection(path: Path, connect: ElementTree.Element) -> Iterator[Finding]:
    """See whether somebody listens, without a connection: to a host that would be a scan."""
    address, port = connect.get("address", "localhost"), connect.get("port", "")
    if address not in ("127.0.0.1", "localhost", "::1") or not port.isdigit():
        return
    if int(port) in listening():
        yield Finding("ok", "host", f"{path.name}: somebody listens on port {port}")
    else:
        text = f"{path.name}: nobody listens on port {port}; Gadgetron gives up after 18 s"
        yield Finding("error", "host", text, f"mnet serve --external {port}")


def listening() -> set[int]:
    """Return the TCP ports of this machine on which somebody listens."""
    ports = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == LISTENING:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def masks(options: argparse.Namespace) -> Iterator[Finding]:
    """Say hello on the mask channel as a reconstruction does, and leave again."""
    endpoint, welcomed = options.mask_endpoint, threading.Event()
    fix = "mnet serve, or mnet maskd where Gadgetron alone reconstructs"
    try:
        keys = None if options.mask_keys is None else ClientKeys.load(options.mask_keys)
        link = RemoteReconPort(endpoint, keys).open(
            f"doctor-{uuid.uuid4()}", lambda direction, header: _note(welcomed, header)
        )
    except (GadgetsError, ValueError) as error:
        yield Finding("error", "masks", str(error), "--mask-endpoint, --mask-keys KEYS/client")
        return
    try:
        answered = welcomed.wait(ANSWER_S)
    finally:
        link.close()
    if answered:
        yield Finding("ok", "masks", f"the mask channel answers at {endpoint}")
    else:
        yield Finding("error", "masks", f"nobody answers at {endpoint}", fix)


def _note(welcomed: threading.Event, header: Mapping[str, Any]) -> None:
    if header["kind"] == "welcome":
        welcomed.set()
