"""The sequence that tests hosts: it passes sound ones, and each rule fails its own broken one."""

from collections.abc import Iterable
from pathlib import Path

import pytest

import gadgets.conformance.recon_trials as trials
from gadgets.conformance.recon_trials import RULES, check_recon
from gadgets.conformance.verdicts import Verdict
from gadgets.host.serve import Host
from gadgets.mask.binder import MaskService
from gadgets.mask.curve_keys import ClientKeys, ServerKeys, make_keys
from gadgets.mask.recon_port import RemoteReconPort
from tests.gadgets.helpers.fake_recon import MaskdRecon, fake_recon

DEFECTS = sorted(RULES.keys() - {"wrong-key"})
GRACE_S = 0.3


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listen to silence for a moment only; a sound host has the usual time to answer."""
    monkeypatch.setattr(trials, "SILENCE_S", 0.15)


@pytest.fixture
def quick(brief: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on an answer early too: a broken host does not answer."""
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


@pytest.mark.usefixtures("brief")
def test_the_sound_host_keeps_every_rule() -> None:
    found = check("")
    assert [(v.rule.name, v.detail) for v in found.values() if v.status == "fail"] == []
    assert [name for name, v in found.items() if v.status == "skipped"] == ["wrong-key"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rule", DEFECTS)
def test_a_rule_fails_the_host_that_breaks_it(rule: str) -> None:
    assert check(rule)[rule].status == "fail"


@pytest.mark.slow
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


def check_daemon(keys: Path, kind: type[ServerKeys], rules: Iterable[str]) -> list[Verdict]:
    """Check a mask daemon with a reconstruction beside it, under CURVE."""
    make_keys(keys, ["scanner", "recon"])
    # `mnet maskd` is this service and nothing else
    with MaskService("tcp://127.0.0.1:*", keys=kind.load(keys / "host")) as daemon:
        recon = MaskdRecon(RemoteReconPort(daemon.endpoint, ClientKeys.load(keys / "recon")))
        try:
            return check_recon(
                daemon.endpoint,
                "127.0.0.1",
                recon.port,
                config="",
                keys=ClientKeys.load(keys / "scanner"),
                grace_s=GRACE_S,
                patience_s=10.0,
                rules=rules,
            )
        finally:
            recon.close()


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_the_mask_daemon_and_a_reconstruction_beside_it_keep_every_rule_under_curve(
    tmp_path: Path,
) -> None:
    found = check_daemon(tmp_path / "keys", ServerKeys, RULES.keys())
    assert [(v.rule.name, v.detail) for v in found if v.status != "pass"] == []


class Everybody(dict[bytes, str]):
    """An allow-list that holds any key."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: bytes) -> str:
        return "anybody"


class OpenKeys(ServerKeys):
    """A host that lets in whoever knows its public key."""

    def clients(self) -> dict[bytes, str]:
        return Everybody(super().clients())


@pytest.mark.usefixtures("quick")
def test_a_host_without_an_allow_list_fails_the_rule_of_keys(tmp_path: Path) -> None:
    found = {v.rule.name: v for v in check_daemon(tmp_path / "keys", OpenKeys, {"wrong-key"})}
    assert found["wrong-key"].status == "fail"
    assert "allow-list" in found["wrong-key"].detail
