"""The sequence that tests hosts: it passes sound ones, and each rule fails its own broken one."""

from pathlib import Path

import pytest
from fake_recon import MaskdRecon, fake_recon

import gadgets.conformance_recon as trials
from gadgets.conformance import Verdict
from gadgets.conformance_recon import RULES, check_recon
from gadgets.keys import ClientKeys, ServerKeys, make_keys
from gadgets.mask_broker import MaskService
from gadgets.mask_peer import RemoteReconPort
from gadgets.serve import Host

DEFECTS = sorted(RULES.keys() - {"wrong-key"})
GRACE_S = 0.3


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SILENCE_S", 0.15)
    monkeypatch.setattr(trials, "DEADLINE_MS", 1000.0)


def check(defect: str) -> dict[str, Verdict]:
    with fake_recon(defect) as host:
        found = check_recon(
            host.endpoint,
            "127.0.0.1",
            host.port,
            config="",
            grace_s=GRACE_S,
            patience_s=1.5 if defect else 10.0,
            rules={defect} if defect else RULES.keys(),
        )
    return {v.rule.name: v for v in found}


@pytest.mark.usefixtures("quick")
def test_the_sound_host_keeps_every_rule() -> None:
    found = check("")
    assert [(v.rule.name, v.detail) for v in found.values() if v.status == "fail"] == []
    assert [name for name, v in found.items() if v.status == "skipped"] == ["wrong-key"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rule", DEFECTS)
def test_a_rule_fails_the_host_that_breaks_it(rule: str) -> None:
    assert check(rule)[rule].status == "fail"


def test_our_host_keeps_every_rule_under_curve(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", ["scanner"])
    with Host(
        port=0,
        mask_endpoint="tcp://127.0.0.1:*",
        mask_keys=ServerKeys.load(tmp_path / "keys/host"),
        device="cpu",
    ) as host:
        host.wait_warm()
        found = check_recon(
            host.mask_endpoint,
            "127.0.0.1",
            host.port,
            config="adaptive_modl.xml",
            keys=ClientKeys.load(tmp_path / "keys/scanner"),
            grace_s=GRACE_S,
            patience_s=120.0,
        )
    assert [(v.rule.name, v.detail) for v in found if v.status != "pass"] == []


@pytest.mark.usefixtures("quick")
def test_the_mask_daemon_and_a_reconstruction_beside_it_keep_every_rule_under_curve(
    tmp_path: Path,
) -> None:
    make_keys(tmp_path / "keys", ["scanner", "recon"])
    # `mnet maskd` is this service and nothing else
    with MaskService("tcp://127.0.0.1:*", keys=ServerKeys.load(tmp_path / "keys/host")) as daemon:
        recon = MaskdRecon(
            RemoteReconPort(daemon.endpoint, ClientKeys.load(tmp_path / "keys/recon"))
        )
        try:
            found = check_recon(
                daemon.endpoint,
                "127.0.0.1",
                recon.port,
                config="",
                keys=ClientKeys.load(tmp_path / "keys/scanner"),
                grace_s=GRACE_S,
                patience_s=10.0,
            )
        finally:
            recon.close()
    assert [(v.rule.name, v.detail) for v in found if v.status != "pass"] == []
