"""What a host does when its clients or its worker misbehave: a clear word, and it lives on."""

import json
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gadgets.cli import main
from gadgets.files.source import write_mrd
from gadgets.host.child_host import Address
from gadgets.host.serve import Host
from gadgets.mrd.items import Acquisition
from gadgets.mrd.messages import ConfigFile, ConfigScript, Header, Text, write_message
from gadgets.records.reader import read_record, read_summary
from gadgets.scanner.client import MrdClient, PeerError
from gadgets.scanner.sequence import play
from gadgets.steps.image_finish import SERIES
from tests.gadgets.helpers.closed_loop import sequence, source

CONFIG = "zero_filled.xml"


def send_all(address: Address, config: str = CONFIG, n_slices: int = 1) -> int:
    """A good scan; says how many images came."""
    data = source(n_slices)
    with MrdClient(address.host, address.port) as client:
        client.start(config, data.header)
        client.send_all(data.acquisitions)
        images = client.finish()
    return sum(int(i.header["image_series_index"]) == SERIES for i in images)


@pytest.fixture
def lives_on(address: Address):  # type: ignore[no-untyped-def]
    """After the test, the host still serves."""
    yield
    assert send_all(address) == 1


@pytest.mark.usefixtures("lives_on")
def test_a_header_without_limits_is_that_of_the_whole_matrix(address: Address) -> None:
    data = source(1)
    start = data.header.index(b"<encodingLimits>")
    end = data.header.index(b"</encodingLimits>") + len(b"</encodingLimits>")
    with MrdClient(address.host, address.port) as client:
        client.start("zero_filled.xml", data.header[:start] + data.header[end:])
        client.send_all(data.acquisitions)
        assert len(client.finish()) == 1


@pytest.mark.usefixtures("lives_on")
def test_limits_that_exceed_the_matrix_are_refused_at_the_header(address: Address) -> None:
    data = source(1)
    with (
        MrdClient(address.host, address.port) as client,
        pytest.raises(PeerError, match=r"0 to 99 are 100 counters, more than the 64 rows"),
    ):
        client.start(CONFIG, data.header.replace(b"<maximum>63<", b"<maximum>99<"))
        client.send_all(data.acquisitions)
        client.finish()


@pytest.mark.usefixtures("lives_on")
def test_a_wrong_coil_count_ends_the_scan_and_keeps_its_record(
    address: Address, records: Path
) -> None:
    data = source(1)
    lines = list(data.acquisitions)
    header = lines[40].header.copy()
    header["active_channels"] = 3
    lines[40] = replace(lines[40], header=header, data=lines[40].data[:3])
    before = set(records.iterdir())
    with (
        MrdClient(address.host, address.port) as client,
        pytest.raises(PeerError, match="3 coils, expected 4"),
    ):
        client.start(CONFIG, data.header)
        client.send_all(lines)
        client.finish()
    (folder,) = set(records.iterdir()) - before
    kept = [m for m in read_record(folder) if isinstance(m, Acquisition)]
    assert len(kept) == len(lines), "no acquired data is lost, also after the error"


@pytest.mark.usefixtures("lives_on")
def test_unknown_pipelines_classes_and_properties_are_named(address: Address) -> None:
    def error(message: ConfigFile | ConfigScript) -> str:
        with (
            MrdClient(address.host, address.port) as client,
            pytest.raises(PeerError) as caught,
        ):
            client.send(message)
            client.finish()
        return str(caught.value)

    assert "no pipeline 'nothing.xml'" in error(ConfigFile("nothing.xml"))
    assert "no pipeline '../adaptive_modl.xml'" in error(ConfigFile("../adaptive_modl.xml"))
    xml = (
        '<configuration><version>2</version><stream><external><execute name="gadgets.external"/>'
        '<configuration><gadget class="Nonsense"/><gadget class="Reconstruct">'
        '<property name="depth" value="3"/></gadget></configuration></external></stream>'
        "</configuration>"
    )
    text = error(ConfigScript(xml.encode()))
    assert "'Nonsense'" in text
    assert "Reconstruct has no property depth" in text


@pytest.mark.usefixtures("lives_on")
def test_a_client_that_vanishes_in_mid_message_leaves_whole_frames_in_the_record(
    address: Address, records: Path
) -> None:
    data = source(2)
    before = set(records.iterdir())
    with socket.create_connection((address.host, address.port)) as sock:
        sock.sendall(write_message(ConfigFile(CONFIG)) + write_message(Header(data.header)))
        for line in data.acquisitions[:100]:
            sock.sendall(write_message(line))
        sock.sendall(write_message(data.acquisitions[100])[:777])
    until = time.monotonic() + 20
    while (
        not (folders := set(records.iterdir()) - before)
        or read_summary(next(iter(folders))).get("state", "running") == "running"
    ):
        assert time.monotonic() < until, "the session ends by itself"
        time.sleep(0.02)
    (folder,) = folders
    kept = [m for m in read_record(folder) if isinstance(m, Acquisition)]
    assert len(kept) == 100
    summary = json.loads((folder / "scan.json").read_text())
    assert [e["complete"] for e in summary["slices"]] == [True, False]
    assert summary["slices"][0]["recon_ms"] is not None, "the whole slice was reconstructed"


@pytest.mark.usefixtures("lives_on")
def test_a_worker_that_is_killed_fails_its_scan_and_is_replaced(
    host: Host, address: Address, records: Path
) -> None:
    assert host.pool is not None
    data = source(2)
    before = set(records.iterdir())
    with (
        MrdClient(address.host, address.port) as client,
        pytest.raises(PeerError, match="worker ended"),
    ):
        client.start("adaptive_modl.xml", data.header)
        client.send_all(data.acquisitions[:80])
        time.sleep(0.5)
        worker = host.pool.get()
        os.kill(worker.pid, signal.SIGKILL)
        client.send_all(data.acquisitions[80:])
        client.finish()
    (folder,) = set(records.iterdir()) - before
    kept = [m for m in read_record(folder) if isinstance(m, Acquisition)]
    assert len(kept) == len(data.acquisitions)
    assert host.pool.get().pid != worker.pid


@pytest.mark.usefixtures("lives_on")
def test_unknown_ids_and_messages_out_of_order_get_a_clear_error(address: Address) -> None:
    data = source(1)
    with (
        MrdClient(address.host, address.port) as client,
        pytest.raises(PeerError, match="before the configuration"),
    ):
        client.send(Header(data.header))
        client.finish()
    with (
        MrdClient(address.host, address.port) as client,
        pytest.raises(PeerError, match="message id 77"),
    ):
        client.start(CONFIG, data.header)
        client._sock.sendall(b"\x4d\x00garbage")
        client.finish()


@pytest.mark.usefixtures("lives_on")
def test_text_before_the_stream_and_lines_with_nan_do_no_harm(address: Address) -> None:
    data = source(1)
    lines = list(data.acquisitions)
    spoiled = lines[3].data.copy()
    spoiled[0, 0] = np.nan
    with MrdClient(address.host, address.port) as client:
        client.send(ConfigFile(CONFIG))
        client.send(Header(data.header))
        client.send(Text('{"parameters": {}}'))
        client.send(replace(lines[3], data=spoiled))
        client.send_all(lines)
        images = client.finish()
    assert len(images) == 1
    assert np.isfinite(images[0].data).all()


def test_a_scan_survives_a_mask_channel_that_is_not_there(address: Address) -> None:
    nowhere = replace(address, mask_endpoint="tcp://127.0.0.1:9")
    played, images = play(
        source(1), sequence(ready_timeout_s=0.2, deadline_ms=50.0), nowhere, "adaptive_modl.xml"
    )
    assert [p.fallback for p in played] == [True]
    assert sum(int(i.header["image_series_index"]) == SERIES for i in images) == 1


def test_truncated_and_missing_files_end_with_a_message_and_a_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = source(1)
    whole = tmp_path / "whole.h5"
    write_mrd(whole, data.header, data.acquisitions)
    broken = tmp_path / "broken.h5"
    broken.write_bytes(whole.read_bytes()[:20000])
    assert main(["convert", str(broken), str(tmp_path / "out.h5")]) == 1
    assert "broken.h5" in capsys.readouterr().err
    for words, said in (
        (["scan", str(tmp_path / "none.h5")], "none.h5"),
        (["replay", str(whole), "--host", "nonsense"], "HOST:PORT"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        assert said in capsys.readouterr().err
