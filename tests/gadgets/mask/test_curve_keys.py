"""Keys of the mask channel: who makes them, who gets in, what is said of those who do not."""

import logging
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from gadgets.cli import main
from gadgets.errors import ConfigError
from gadgets.host.child_host import Address
from gadgets.host.serve import Host
from gadgets.mask.binder import Binder, MaskService
from gadgets.mask.curve_keys import ClientKeys, ServerKeys, make_keys
from gadgets.mask.messages import ErrorMessage, Hello, ReconHello, Welcome
from gadgets.mask.recon_port import RemoteReconPort
from gadgets.mask.sequence_port import SequencePort
from gadgets.scanner.sequence import play
from tests.gadgets.helpers.closed_loop import sequence, source
from tests.gadgets.helpers.mask_bench import (
    ANYWHERE,
    CHOSEN,
    PATIENCE,
    SLICE,
    RawPeer,
    applied_in,
    hello,
    soon,
    until,
)

OUTSIDE = "tcp://0.0.0.0:*"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["scanner", "recon"])
    return tmp_path / "keys"


@pytest.fixture
def service(folder: Path) -> Iterator[MaskService]:
    with MaskService(OUTSIDE, keys=ServerKeys.load(folder / "host")) as service:
        yield service


def reach(service: MaskService) -> str:
    return service.endpoint.replace("0.0.0.0", "127.0.0.1")


def stranger(folder: Path, tmp_path: Path) -> ClientKeys:
    """Keys that know the host but that the host does not know."""
    make_keys(tmp_path / "elsewhere", ["stranger"])
    known = ClientKeys.load(folder / "scanner")
    return replace(ClientKeys.load(tmp_path / "elsewhere" / "stranger"), server=known.server)


def test_secret_keys_are_private_and_different(folder: Path) -> None:
    secrets = [
        folder / "host/server.key",
        folder / "scanner/client.key",
        folder / "recon/client.key",
    ]
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600] * 3
    assert len({path.read_bytes() for path in secrets}) == 3
    for path in secrets:
        public = path.with_suffix(".pub").read_bytes().strip()
        assert zmq.curve_public(path.read_bytes().strip()) == public


def test_making_keys_again_adds_clients_and_overwrites_nothing(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["keys", str(folder), "--client", "second"]) == 0
    assert main(["keys", str(folder), "--client", "third", "--client", "scanner"]) == 1
    assert not (folder / "third").exists(), "half of a refused command was done"
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert before.items() < after.items()
    names = set(ServerKeys.load(folder / "host").clients().values())
    assert names == {"scanner", "recon", "second"}


@pytest.mark.parametrize("name", ["", "../up", "host", "a/b", ".hidden", "x" * 65])
def test_a_client_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected different names"):
        make_keys(tmp_path / "keys", [name])
    assert not (tmp_path / "keys").exists()


def test_a_secret_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "host/server.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        ServerKeys.load(folder / "host")


def test_broken_keys_are_refused_without_being_quoted(folder: Path) -> None:
    path = folder / "scanner/client.key"
    path.write_text("not-a-key-but-perhaps-a-password\n")
    with pytest.raises(ConfigError) as caught:
        ClientKeys.load(folder / "scanner")
    assert "password" not in str(caught.value)
    (folder / "recon/server.pub").unlink()
    with pytest.raises(ConfigError, match=r"server\.pub"):
        ClientKeys.load(folder / "recon")


def test_no_secret_is_in_the_repr(folder: Path) -> None:
    for keys in (ServerKeys.load(folder / "host"), ClientKeys.load(folder / "scanner")):
        assert keys.secret.decode() not in repr(keys)


def test_an_empty_allow_list_is_refused(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    with pytest.raises(ConfigError, match="allows nobody"):
        ServerKeys.load(tmp_path / "keys" / "host")


def test_an_allow_list_may_be_a_file(folder: Path, tmp_path: Path) -> None:
    keys = [(folder / f"host/allowed/{n}.pub").read_text().strip() for n in ("scanner", "recon")]
    listed = tmp_path / "allowed"
    listed.write_text(f"# our site\n\n{keys[0]} scanner\n{keys[1]}\n")
    clients = ServerKeys(secret=b"", allowed=listed).clients()
    assert list(clients.values()) == ["scanner", ""]


def test_one_broken_file_in_the_allow_list_shuts_out_nobody_else(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    (folder / "host/allowed/broken.pub").write_text("garbage\n")
    assert len(ServerKeys.load(folder / "host").clients()) == 2


def test_masks_make_the_round_trip_under_curve_beyond_loopback(
    folder: Path, service: MaskService
) -> None:
    fixed = hello()
    link = RemoteReconPort(reach(service), ClientKeys.load(folder / "recon")).open(fixed.scan_token)
    with SequencePort(reach(service), fixed, ClientKeys.load(folder / "scanner")) as port:
        link.warmed()
        assert port.wait_ready(PATIENCE)
        until(lambda: link.hello() is not None)
        message_id = link.send(SLICE, CHOSEN, model="", reason="")
        mask = port.poll(SLICE, soon())
        assert mask is not None
        port.applied(SLICE, mask.counters, fallback=False, reason="", message_id=message_id)
        assert applied_in(link, SLICE).message_id == message_id
    link.close()
    assert service.refused == 0


def test_a_key_that_is_not_allowed_is_refused_counted_and_logged_without_secrets(
    folder: Path, service: MaskService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    keys = stranger(folder, tmp_path)
    with SequencePort(reach(service), hello(), keys) as port:
        assert not port.wait_ready(PATIENCE)
        assert "allow-list" in str(port.refused)
        until(lambda: service.refused > 0)
    assert "refused a client" in caplog.text
    host = (folder / "host/server.key").read_text().strip()
    assert keys.secret.decode() not in caplog.text
    assert host not in caplog.text


def test_a_client_without_keys_is_refused_counted_and_hears_nothing(
    service: MaskService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    fixed = hello()
    link = service.open(fixed.scan_token)
    with RawPeer(reach(service)) as plain:
        plain.say(fixed)
        until(lambda: service.refused > 0)
        assert not plain.socket.poll(100)
    assert link.hello() is None
    link.close()


def test_a_client_does_not_talk_to_a_host_with_another_key(
    folder: Path, service: MaskService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    make_keys(tmp_path / "impostor")
    other = (tmp_path / "impostor/host/server.pub").read_bytes().strip()
    keys = replace(ClientKeys.load(folder / "scanner"), server=other)
    with SequencePort(reach(service), hello(), keys) as port:
        assert not port.wait_ready(PATIENCE)
        assert "public key" in str(port.refused)
    assert service.refused > 0


def test_a_client_taken_off_the_list_cannot_come_back(folder: Path, service: MaskService) -> None:
    keys = ClientKeys.load(folder / "scanner")
    fixed = hello()
    link = service.open(fixed.scan_token)
    link.warmed()
    with SequencePort(reach(service), fixed, keys) as port:
        assert port.wait_ready(PATIENCE)
    link.close()
    (folder / "host/allowed/scanner.pub").unlink()
    with SequencePort(reach(service), hello(), keys) as port:
        assert not port.wait_ready(PATIENCE)
        assert "allow-list" in str(port.refused)


def test_a_scan_belongs_to_the_key_that_first_said_its_hello() -> None:
    binder, fixed = Binder(), hello()
    binder.receive(b"recon", ReconHello(scan_token=fixed.scan_token, warm=True), "key of recon")
    binder.receive(b"scanner", fixed, "key of scanner")
    [(peer, answer)] = binder.receive(b"thief", fixed, "key of thief")
    assert (peer, type(answer)) == (b"thief", ErrorMessage)
    assert "another key" in answer.detail  # type: ignore[union-attr]
    letters = binder.receive(b"scanner", fixed, "key of scanner")
    assert letters == [], "the pair was disturbed"
    [*_, (_, state)] = binder.receive(b"again", fixed, "key of scanner")
    assert isinstance(state, Welcome)
    assert not state.paired, "the same key may be a restarted sequence"


def test_a_routing_id_used_before_by_another_key_inherits_nothing() -> None:
    binder, fixed = Binder(), hello()
    binder.receive(b"recon", ReconHello(scan_token=fixed.scan_token, warm=True), "key of recon")
    assert any(isinstance(m, Hello) for _, m in binder.receive(b"id", fixed, "key of scanner"))
    letters = binder.receive(b"id", fixed, "key of thief")
    assert any(isinstance(m, ErrorMessage) and p == b"id" for p, m in letters)
    assert b"id" not in binder.tokens()


def test_maskd_outside_loopback_without_keys_ends_with_a_clear_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["maskd", "--mask-endpoint", "tcp://0.0.0.0:0"]) == 1
    assert "mnet keys" in capsys.readouterr().err


def test_loopback_needs_no_keys() -> None:
    with MaskService(ANYWHERE) as service, SequencePort(service.endpoint, hello()) as port:
        assert not port.wait_ready(0.05)
        assert port.refused is None
        assert service.refused == 0


def test_the_closed_loop_runs_under_curve(folder: Path) -> None:
    with Host(
        port=0,
        mask_endpoint=OUTSIDE,
        mask_keys=ServerKeys.load(folder / "host"),
        device="cpu",
    ) as host:
        host.wait_warm()
        address = Address(
            host="127.0.0.1",
            port=host.port,
            mask_endpoint=host.mask_endpoint.replace("0.0.0.0", "127.0.0.1"),
            mask_keys=ClientKeys.load(folder / "scanner"),
        )
        patient = sequence(deadline_ms=1000 * PATIENCE)
        played, images = play(source(1), patient, address, "adaptive_modl.xml")
    assert [p.fallback for p in played] == [False]
    assert images
