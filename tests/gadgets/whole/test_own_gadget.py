"""The example of docs/own-gadget.md in a real host, and the page itself."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from gadgets.cli import main
from gadgets.doctor import checks
from gadgets.files.mrd_hdf5 import write_mrd
from gadgets.host.child_host import Address
from gadgets.host.serve import Host
from gadgets.mrd.items import Image
from gadgets.mrd.messages import Close, ConfigFile, ConfigScript, Header, Text
from gadgets.pipeline.build import parse
from gadgets.pipeline.chain import run
from gadgets.pipeline.own_gadgets import own_gadgets
from gadgets.pipeline.scan import Scan
from gadgets.scanner.client import MrdClient, PeerError
from gadgets.steps.image_finish import ImageFinish
from tests.gadgets.helpers import closed_loop
from tests.gadgets.helpers.external_parent import IMAGE, Parent, failed, node_document
from tests.gadgets.helpers.peer import error, session
from tests.gadgets.helpers.synthetic import Array, fft, ifft

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "docs/examples"
PAGE = (ROOT / "docs/own-gadget.md").read_text()
XML = (EXAMPLES / "own-pipelines/apodised.xml").read_text()
FAULTY = """
import os
from dataclasses import dataclass
from gadgets.pipeline.gadget import Gadget

@dataclass(frozen=True, kw_only=True)
class Faulty(Gadget):
    word: str = "bad"

    def __call__(self, scan, items):
        for item in items:
            raise RuntimeError(f"a {self.word} line")
            yield

@dataclass(frozen=True, kw_only=True)
class FaultyInWorker(Faulty):
    heavy = True
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A host with gadgets of its own."""

    host: Host
    gadgets: Path

    @property
    def address(self) -> Address:
        return Address(host="127.0.0.1", port=self.host.port, mask_endpoint=self.host.mask_endpoint)

    def images(self, config: str = "apodised.xml") -> list[Image]:
        """Send two slices; give what comes back."""
        source = closed_loop.source(2)
        with MrdClient("127.0.0.1", self.host.port) as client:
            client.start(config, source.header)
            client.send_all(source.acquisitions)
            return client.finish(120)


def folder(parent: Path, name: str) -> Path:
    """Copy a folder of the example; nobody else can write to it, whatever the checkout allows."""
    copy = shutil.copytree(EXAMPLES / name, parent / name, ignore=lambda *_: {"__pycache__"})
    copy.chmod(0o755)
    for path in copy.iterdir():
        path.chmod(0o644)
    return copy


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("site")
    gadgets, pipelines = folder(place, "own-gadgets"), folder(place, "own-pipelines")
    (gadgets / "faulty.py").write_text(FAULTY)
    for name in ("Faulty", "FaultyInWorker", "Missing"):
        (pipelines / f"{name}.xml").write_text(XML.replace("apodise.Apodise", f"faulty.{name}"))
    for path in pipelines.glob("Faulty*.xml"):
        path.write_text(
            path.read_text().replace('name="taper" value="0.5"', 'name="word" value="poor"')
        )
    with Host(
        port=0,
        external_port=0,
        mask_endpoint="tcp://127.0.0.1:*",
        records=place / "records",
        pipelines=pipelines,
        gadgets=gadgets,
        device="cpu",
        allow_inline=True,
    ) as host:
        host.wait_warm()
        yield Site(host=host, gadgets=gadgets)


@pytest.fixture(scope="module")
def without() -> list[Array]:
    """The complex images (x, y) of the pipeline without the gadget, by the plain loop."""
    source = closed_loop.source(2)
    ours = re.sub(r'<gadget class="apodise.Apodise">.*?</gadget>', "", XML, flags=re.DOTALL)
    gadgets = [
        replace(gadget, output="complex") if isinstance(gadget, ImageFinish) else gadget
        for gadget in parse(ours)
    ]
    items = run(gadgets, Scan(geometry=source.geometry), source.acquisitions)
    return [item.data[0, 0].T for item in items if isinstance(item, Image)]


def by_numpy(image: Array, taper: float) -> Array:
    """Apodise with the formula of a Tukey window, written out once more."""
    weights = np.ones(image.shape)
    for axis, n in enumerate(image.shape):
        half = n // 2 + 1
        for k in range(n):
            beyond = abs(k - n // 2) - half * (1 - taper)
            if beyond > 0:
                one = 0.5 + 0.5 * np.cos(np.pi * beyond / (half * taper))
                np.moveaxis(weights, axis, 0)[k] *= one
    kspace = fft(fft(image, 0), 1) * weights
    return np.abs(ifft(ifft(kspace, 0), 1))


def agree(images: list[Image], without: list[Array], taper: float) -> None:
    """Check pixels against numpy; single precision has seven digits, transforms cost one."""
    assert len(images) == len(without) == 2
    for image, plain in zip(images, without, strict=True):
        expected = by_numpy(plain, taper)
        np.testing.assert_allclose(
            image.data[0, 0].T, expected, atol=1e-5 * float(expected.max()), rtol=0
        )
        assert image.meta["mnet_apodisation"] == f"Tukey {taper:g}"
        changed = np.abs(expected - np.abs(plain)).max() / expected.max()
        assert changed > 0.02  # the gadget does something


def test_the_example_s_images_are_those_of_its_formula(site: Site, without: list[Array]) -> None:
    agree(site.images(), without, 0.5)


def test_the_record_names_the_gadget_and_the_hash_of_its_file(site: Site) -> None:
    assert site.host.records is not None
    before = set(site.host.records.glob("*"))
    site.images()
    (record,) = set(site.host.records.glob("*")) - before
    summary = json.loads((record / "scan.json").read_text())
    shown = subprocess.run(
        ["sha256sum", str(site.gadgets / "apodise.py")], capture_output=True, text=True, check=True
    )
    assert summary["own_gadgets"] == {"apodise.Apodise": shown.stdout.split()[0]}


def test_a_client_of_fire_sets_its_properties_as_it_sets_ours(
    site: Site, without: list[Array]
) -> None:
    source = closed_loop.source(2)
    text = Text(json.dumps({"parameters": {"taper": 1, "n_iterations": 30}}))
    start = (ConfigFile("apodised"), Header(source.header), text)
    heard = session(site.address, *start, *source.acquisitions, Close())
    agree([message for message in heard if isinstance(message, Image)], without, 1)


def test_a_class_that_is_not_there_is_answered_with_those_that_are(site: Site) -> None:
    with pytest.raises(
        PeerError, match=r"'faulty\.Missing', expected .*apodise\.Apodise, faulty\."
    ):
        site.images("Missing.xml")


@pytest.mark.parametrize("name", ["Faulty", "FaultyInWorker"])
def test_an_exception_in_it_ends_its_scan_and_no_other(
    name: str, site: Site, without: list[Array]
) -> None:
    with pytest.raises(PeerError, match="RuntimeError: a poor line"):
        site.images(f"{name}.xml")
    agree(site.images(), without, 0.5)


def test_a_client_cannot_name_a_file_or_a_module(site: Site) -> None:
    for name in ("os.system", "../own-gadgets/apodise.Apodise", "gadgets.cli.main"):
        xml = XML.replace("apodise.Apodise", name).encode()
        heard = session(site.address, ConfigScript(xml), Close())
        assert f"unknown gadget class {name!r}" in error(heard)


def test_a_worker_that_is_started_again_runs_what_the_host_has_read(
    site: Site, without: list[Array]
) -> None:
    file = site.gadgets / "apodise.py"
    text = file.read_text()
    assert site.host.pool is not None
    worker = site.host.pool.get()
    try:
        file.write_text("raise RuntimeError('changed since')")
        os.kill(worker.pid, signal.SIGKILL)
        until = time.monotonic() + 30
        while not worker.dead and time.monotonic() < until:
            time.sleep(0.05)
        agree(site.images(), without, 0.5)
    finally:
        file.write_text(text)
    assert site.host.pool.get().pid != worker.pid


def test_the_node_under_gadgetron_takes_the_folder_from_its_configuration(
    site: Site, without: list[Array], tmp_path: Path
) -> None:
    source = closed_loop.source(2)
    document = node_document(XML, {"gadgets": str(site.gadgets), "device": "cpu"})
    with Parent(tmp_path / "node.log") as parent:
        parent.start(document, source.header)
        parent.send_all(source.acquisitions)
        parent.close()
        heard = parent.rest()
        assert parent.status() == 0, parent.log
    pixels = [message.pixels for message in heard if message.id == IMAGE]
    for got, plain in zip(pixels, without, strict=True):
        assert got is not None
        expected = by_numpy(plain, 0.5)
        np.testing.assert_allclose(got[0, 0].T, expected, atol=1e-5 * float(expected.max()), rtol=0)


def test_the_node_under_gadgetron_tells_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    document = node_document(XML, {"gadgets": str(tmp_path / "none")})
    source = closed_loop.source(1)
    with Parent(tmp_path / "node.log") as parent:
        parent.start(document, source.header)
        parent.close()
        assert f"gadgets: {tmp_path / 'none'} is no folder" in failed(parent.rest())
        assert parent.status() != 0


def test_serve_does_not_start_with_a_folder_that_others_can_write_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gadgets = folder(tmp_path, "own-gadgets")
    gadgets.chmod(0o777)
    assert main(["serve", "--port", "0", "--gadgets", str(gadgets)]) == 1
    assert f"chmod go-w {gadgets}" in capsys.readouterr().err


def test_a_host_whose_gadgets_fail_is_not_ready_and_says_why(tmp_path: Path) -> None:
    gadgets = folder(tmp_path, "own-gadgets")
    (gadgets / "broken.py").write_text("import no_such_module")
    with Host(
        port=0, mask_endpoint="tcp://127.0.0.1:*", gadgets=gadgets, device="cpu", status_port=0
    ) as host:
        heard = session(
            Address(host="127.0.0.1", port=host.port, mask_endpoint=host.mask_endpoint),
            ConfigFile("zero_filled.xml"),
            Close(),
        )
        assert "broken.py, line 1: ModuleNotFoundError: No module named 'no_such" in error(heard)
        assert "broken.py" in host.unready()


def test_doctor_imports_the_files_and_builds_the_pipelines(tmp_path: Path) -> None:
    gadgets, pipelines = folder(tmp_path, "own-gadgets"), folder(tmp_path, "own-pipelines")
    (finding,) = checks.gadgets(gadgets)
    assert (finding.level, "apodise.Apodise" in finding.text) == ("ok", True)
    (loaded,) = checks.pipelines(pipelines, own_gadgets(gadgets))
    assert loaded.level == "ok"
    (gadgets / "apodise.py").chmod(0o666)
    (finding,) = checks.gadgets(gadgets)
    assert (finding.level, bool(finding.fix)) == ("error", True)
    assert list(checks.gadgets(None)) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("python", "own-gadgets/apodise.py"),
        ("xml", "own-pipelines/apodised.xml"),
        ("python", "test_apodise.py"),
    ],
)
def test_the_page_shows_the_files_as_they_are(kind: str, name: str) -> None:
    assert f"```{kind}\n{(EXAMPLES / name).read_text()}```\n" in PAGE


def test_the_page_s_notebook_runs_and_gives_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: list[Array]
) -> None:
    (cell,) = re.findall(r"^## In a notebook\n.*?^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "cell.py").write_text(cell)
    for name in ("own-gadgets", "own-pipelines"):
        folder(tmp_path / "docs/examples", name)
    source = closed_loop.source(2)
    write_mrd(tmp_path / "DATA.h5", source.header, source.acquisitions)
    monkeypatch.chdir(tmp_path)
    images = runpy.run_path("cell.py")["images"]
    for got, plain in zip(images, without, strict=True):
        expected = by_numpy(plain, 0.5)
        np.testing.assert_allclose(got.T, expected, atol=1e-5 * float(expected.max()), rtol=0)
