from collections.abc import Iterator
from pathlib import Path

import pytest

from gadgets.host.child_host import Address
from gadgets.host.serve import Host
from gadgets.pipeline.build import load
from tests.gadgets.helpers import closed_loop


@pytest.fixture(scope="session")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("noise")


@pytest.fixture(scope="session")
def pipelines_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's own pipelines, and others that lie beside and below them."""
    folder = tmp_path_factory.mktemp("site") / "pipelines"
    (folder / "below").mkdir(parents=True)
    for path in ("site.xml", "../outside.xml", "below/inside.xml"):
        (folder / path).write_text(load("default.xml"))
    (folder / "float32.xml").write_text(closed_loop.in_float32(load("adaptive_modl.xml")))
    return folder


@pytest.fixture(scope="session")
def host(
    tmp_path_factory: pytest.TempPathFactory, noise_folder: Path, pipelines_folder: Path
) -> Iterator[Host]:
    """One warm host for all tests of a session: sessions must not disturb each other anyway."""
    with Host(
        port=0,
        mask_endpoint="tcp://127.0.0.1:*",
        records=tmp_path_factory.mktemp("records"),
        noise=noise_folder,
        pipelines=pipelines_folder,
        device="cpu",
        allow_inline=True,
    ) as host:
        host.wait_warm()
        yield host


@pytest.fixture
def address(host: Host) -> Address:
    return Address(host="127.0.0.1", port=host.port, mask_endpoint=host.mask_endpoint)


@pytest.fixture
def records(host: Host) -> Path:
    assert host.records is not None
    return host.records
