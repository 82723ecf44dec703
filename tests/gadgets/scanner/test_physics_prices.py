"""A TSE of the demo head: what order and dummies cost, on the scan's own masks and noise."""

import importlib.util
from pathlib import Path

import pytest

from gadgets.cli import main
from gadgets.files.source import Source, open_source
from gadgets.files.tissue_maps import TissueMaps, read_tissues
from gadgets.host.child_host import Address
from gadgets.scanner.adaptive_scan import Options, adaptive_scan
from gadgets.scanner.demo_scan import demo_volume, write_demo
from gadgets.scanner.physics_findings import physics_findings
from gadgets.scanner.physics_prices import prices
from gadgets.scanner.simulated_lines import Physics

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nilearn") is None, reason="nilearn is not installed"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.h5"
    write_demo(path, demo_volume(n_slices=1, n_coils=8, n_x=128, n_ky=128, n_acquirable=128))
    return path


@pytest.fixture(scope="module")
def demo(path: Path) -> tuple[Source, TissueMaps]:
    return open_source(path), read_tissues(path)


@pytest.mark.slow
def test_order_and_dummies_have_their_prices(demo, address: Address) -> None:
    source, maps = demo
    options = Options(physics=Physics(kind="tse"), echo_train=8, dummies=1, acceleration=3.0)
    result = adaptive_scan(source, address, options, tissues=maps)
    said = result.json["summary"]
    assert said["fallbacks"] == 0
    assert (said["order"], said["effective_echo"], said["physics"]["kind"]) == (
        "continuous",
        5,
        "tse",
    )
    rows = prices(result, source.geometry)
    nrmse = {row["name"]: row["nrmse"] for row in rows}
    alone = nrmse["undersampling alone"]
    # every order costs a tenth and more, and each something else
    orders = [nrmse[rule] for rule in ("continuous", "linear", "centre-out", "shuffled", "bands")]
    assert min(orders) > 1.1 * alone
    assert len({round(each, 4) for each in orders}) == 5
    # what a shot without phase encoding tells brings a continuous order nearer, here
    assert nrmse["continuous, gain corrected"] < nrmse["continuous"]
    # one dummy shot brings a slice near its steady state, a second one changes little
    assert nrmse["0 dummy shots"] > 1.2 * nrmse["1 dummy shots"]
    assert nrmse["2 dummy shots"] == pytest.approx(nrmse["1 dummy shots"], rel=0.05)
    assert [row["name"] for row in rows if row["played"]] == ["continuous", "1 dummy shots"]
    # what came back over the wire is what the same lines give here
    assert result.json["summary"]["nrmse"] == pytest.approx(nrmse["1 dummy shots"], rel=0.02)
    found = physics_findings(result, rows)
    assert found.echoes["continuous"][64] == found.table["echo_of_centre"] == 5
    assert "8 echoes of 9.6 ms" in found.table["sequence"]


def test_the_command_scans_with_physics_and_refuses_files_without_tissues(
    path: Path, address: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = ["--host", f"{address.host}:{address.port}", "--mask-endpoint", address.mask_endpoint]
    command = ["scan", str(path), "--no-report", "--tr-ms", "0", *host]
    assert main([*command, "--physics", "gre", "--dummies", "20"]) == 0
    assert main([*command, "--physics", "tse", "--echo-train", "8", "--effective-echo", "9"]) == 1
    assert "effective echo 9, expected 1 to 8; see --order" in capsys.readouterr().err
    assert main([*command, "--physics", "gre", "--echo-train", "8"]) == 1
    assert "a gradient echo has trains of 1" in capsys.readouterr().err
