"""`mnet doctor`: finds the usual mistakes of an installation before a scan does.

It takes the options of `mnet serve` and tries what the host will need with them. Every finding
that is not ok says what to do. Nothing is changed, and nothing leaves the machine.
"""

import argparse
import http.client
import importlib.resources
import json
import os
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path

from ..errors import ConfigError, GadgetsError
from ..files.noise_store import default_folder
from ..mask.curve_keys import ServerKeys
from ..mask.gate import is_loopback, require_safe
from ..pipeline.catalogue import OURS, Catalogue
from ..pipeline.own_gadgets import own_gadgets
from ..records.writer import DEFAULT_CAP
from .machine import Finding, cores, disk, packages, ports, torch_and_gpu

LEAST_FREE = 1 << 30  # bytes
REINSTALL = "install mnet-gadgets again: pip install --force-reinstall --no-deps ..."


def examine(options: argparse.Namespace) -> Iterator[Finding]:
    """Look at everything, one finding after the other."""
    if options.gadgetron:
        from .gadgetron import gadgetron

        yield from gadgetron(options, os.environ)
        return
    yield from packages()
    yield from cores()
    device = yield from torch_and_gpu(options.device)
    catalogue = yield from gadgets(options.gadgets)
    names = yield from pipelines(options.pipelines, catalogue)
    if device is not None:
        yield from weights(names)
        yield from models(device)
    yield from keys(options)
    yield from monitor(options.monitor_port)
    yield from running(options)
    yield from disk("records", options.records, LEAST_FREE, DEFAULT_CAP)
    yield from disk("noise", options.noise or default_folder(), 0, 0)


def gadgets(folder: Path | None) -> Generator[Finding, None, Catalogue]:
    """Import the gadgets of a site's own folder, if it has one."""
    if folder is None:
        return OURS
    try:
        catalogue = own_gadgets(folder)
    except ConfigError as error:
        fix = (
            "correct the file, or put it where nobody else may write: install -d -m 755 FOLDER, "
            "then --gadgets FOLDER"
        )
        yield Finding("error", "gadgets", str(error), fix)
        return OURS
    yield Finding("ok", "gadgets", f"{', '.join(catalogue.own)} of {folder}")
    return catalogue


def pipelines(extra: Path | None, catalogue: Catalogue) -> Generator[Finding, None, set[str]]:
    """Load every pipeline; returns the names of the weights that they use."""
    from ..pipeline.build import load, parse

    if extra is not None and not extra.is_dir():
        yield Finding("error", "pipelines", f"{extra} is no folder", "--pipelines FOLDER")
        extra = None
    ours = Path(str(importlib.resources.files("xml_configs")))
    files = sorted(path for place in (ours, extra) if place for path in place.glob("*.xml"))
    names, broken = set(), False
    for path in files:
        try:
            parsed = parse(load(path.name, path.parent), catalogue)
        except (GadgetsError, ImportError) as error:
            broken = True
            fix = REINSTALL if path.parent == ours else "correct the file"
            yield Finding("error", "pipelines", f"{path}: {error}", fix)
            continue
        for gadget in parsed:
            if getattr(gadget, "method", "modl") == "modl":
                names |= {getattr(gadget, name, "") for name in ("sampler", "weights")}
    if not files:
        yield Finding("error", "pipelines", f"none at {ours}", REINSTALL)
    elif not broken:
        yield Finding("ok", "pipelines", f"{len(files)} load")
    return names - {""}


def weights(names: set[str]) -> Iterator[Finding]:
    """Load the weights that pipelines name, and compare their hashes with their cards."""
    from mnet.weight_files import WeightsError, load_weights

    for name in sorted(names):
        try:
            _, card = load_weights(name)
        except (WeightsError, OSError) as error:
            yield Finding("error", "weights", f"{name}: {error}", REINSTALL)
        else:
            yield Finding("ok", "weights", f"{name}: sha256 {card['sha256'][:16]}... as its card")


def models(device: str) -> Iterator[Finding]:
    """Predict a mask and reconstruct a slice, both of a scan that is made up."""
    from ..host.rehearsal import header, rehearse
    from ..mrd.geometry import Geometry
    from ..pipeline.build import load, parse
    from ..pipeline.chain import split
    from ..pipeline.models import Models
    from ..pipeline.scan import Scan

    front, heavy = split(parse(load("adaptive_modl.xml")))
    why = rehearse(front, Models())
    if why:
        yield Finding("error", "mask", f"no mask can be predicted: {why}", "see the findings above")
    else:
        yield Finding("ok", "mask", "one was predicted")
    scan = Scan(geometry=Geometry.parse(header()), models=Models(device), device=device)
    try:
        for gadget in heavy:
            gadget.warm(scan)
    except (GadgetsError, RuntimeError, ValueError) as error:
        fix = "see the findings above; `no kernel image`: this build of torch is not for this GPU"
        yield Finding("error", "reconstruction", f"fails on {device}: {error}", fix)
    else:
        yield Finding("ok", "reconstruction", f"works on {device}")


def keys(options: argparse.Namespace) -> Iterator[Finding]:
    """Look at who may connect."""
    ours = None
    try:
        if options.mask_keys is not None:
            ours = ServerKeys.load(options.mask_keys)
            yield from _allow_list(ours.allowed)
        require_safe(options.mask_endpoint, ours)
    except (ConfigError, ValueError) as error:
        fix = "`mnet keys FOLDER --client NAME`, then --mask-keys FOLDER/host; chmod 600 secrets"
        yield Finding("error", "keys", str(error), fix)
    else:
        who = "this machine only" if ours is None else f"{len(ours.clients())} keys on the list"
        yield Finding("ok", "keys", f"mask channel: {who}")
    if not is_loopback(options.address):
        fix = (
            "MRD has no keys: let a firewall admit the scanner alone, then --address-is-guarded; "
            "or use 127.0.0.1 and ssh -L"
        )
        text = f"{options.address}: whoever reaches this address may send scans"
        yield Finding("warning" if options.address_is_guarded else "error", "address", text, fix)


def monitor(port: int | None) -> Iterator[Finding]:
    """See whether the page that is asked for can be served."""
    if port is None:
        return
    from ..monitor.monitor import require_extra

    try:
        require_extra()
    except ConfigError as error:
        yield Finding("error", "monitor", str(error), "pip install 'mnet-gadgets[monitor]'")
    else:
        yield Finding("ok", "monitor", f"the page can be served: http://127.0.0.1:{port}/")


def _allow_list(allowed: Path) -> Iterator[Finding]:
    for path in [allowed, *allowed.glob("*.pub")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o022:
            text = f"{path} can be written by others (mode {mode:04o}), who may let themselves in"
            yield Finding("error", "keys", text, f"chmod go-w {path}")


def running(options: argparse.Namespace) -> Iterator[Finding]:
    """Ask a host that runs already whether it is ready; else try the ports."""
    port = options.status_port or options.monitor_port
    answer = _ask(port)
    if answer is None:
        yield from ports(options)
    elif answer[0] == http.client.OK:
        yield Finding("ok", "host", f"runs and is ready (port {port}); ports kept")
    else:
        text = f"runs, but is not ready: {answer[1]}"
        yield Finding("error", "host", text, "see its log, and the findings above")


def _ask(port: int | None) -> tuple[int, str] | None:
    if not port:
        return None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read(1000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Examine and report; returns 1 where something is wrong."""
    findings = []
    for finding in examine(options):
        findings.append(finding)
        if not options.json:
            say(f"{finding.level:7} {finding.check}: {finding.text}")
            if finding.fix:
                say(f"        -> {finding.fix}")
    errors = sum(finding.level == "error" for finding in findings)
    if options.json:
        document = {"errors": errors, "findings": [asdict(finding) for finding in findings]}
        say(json.dumps(document, indent=1))
    return 1 if errors else 0
