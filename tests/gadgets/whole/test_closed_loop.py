"""The closed loop over real sockets: two ends, masks, deadlines, records."""

import json
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest

from gadgets.cli import main
from gadgets.host.child_host import Address
from gadgets.host.serve import Host
from gadgets.mask.messages import Scope
from gadgets.mask.sequence_port import SequencePort
from gadgets.mrd.geometry import SCAN_TOKEN
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.header_xml import with_user_parameter
from gadgets.mrd.items import Acquisition, Image
from gadgets.mrd.messages import Close, ConfigFile, Query, Response, read_message, write_message
from gadgets.mrd.sockets import SocketReader
from gadgets.records.reader import read_record, read_summary
from gadgets.scanner.adaptive_scan import Options, adaptive_scan
from gadgets.scanner.client import MrdClient
from gadgets.scanner.replay import replay
from gadgets.scanner.sequence import Played, hello_of, play
from gadgets.steps.image_finish import SERIES, SERIES_MASK
from mnet.recon.modl import MoDL
from mnet.score.comparison import reconstruct
from mnet.sequence.echo_order import EchoOrder
from mnet.weight_files import load_weights
from tests.gadgets.helpers.closed_loop import N_KY, sequence, source
from tests.gadgets.helpers.synthetic import scanned

CONFIG = "adaptive_modl.xml"
CONTINUOUS = EchoOrder(rule="continuous", train=4)


def newest(records: Path) -> Path:
    return max(records.iterdir(), key=lambda path: path.stat().st_mtime)


def summary(folder: Path) -> dict:
    until = time.monotonic() + 10
    while read_summary(folder).get("state", "running") == "running" and time.monotonic() < until:
        time.sleep(0.01)
    return json.loads((folder / "scan.json").read_text())


def series(images: list[Image], number: int) -> list[Image]:
    return [i for i in images if int(i.header["image_series_index"]) == number]


def test_the_host_receives_the_calibration_and_the_lines_of_its_mask_and_no_others(
    address: Address, records: Path
) -> None:
    before = set(records.iterdir())
    played, images = play(source(3), sequence(), address, CONFIG)
    assert [p.fallback for p in played] == [False] * 3
    assert len(series(images, SERIES)) == 3
    (folder,) = set(records.iterdir()) - before
    received: dict[int, list[int]] = {}
    for message in read_record(folder):
        if isinstance(message, Acquisition):
            received.setdefault(int(message.header["slice"]), []).append(
                int(message.header["kspace_encode_step_1"])
            )
    for one, mask_image in zip(played, series(images, SERIES_MASK), strict=True):
        counters = received[one.key[0]]
        assert sorted(counters) == sorted(one.counters), "exactly the mask, nothing twice"
        assert np.flatnonzero(mask_image.data[0, 0, 0]).tolist() == list(one.counters)
    entries = summary(folder)["slices"]
    assert [e["received"] for e in entries] == [e["asked"] for e in entries]


def test_the_images_are_those_of_the_same_lines_reconstructed_without_host(
    address: Address,
) -> None:
    result = adaptive_scan(source(2), address, Options(config="float32.xml", acceleration=2.0))
    masks = np.zeros((2, N_KY), dtype=bool)
    for i, entry in enumerate(result.json["slices"]):
        masks[i, entry["mask"]] = True
    model = load_weights("modl")[0]
    assert isinstance(model, MoDL)
    expected = reconstruct(result.volume, result.csm, masks, "modl", model.in_float32())
    # the same float32 operations in another process: thread counts alone change the last digits
    error = (result.images - expected).norm() / expected.norm()
    assert error < 1e-4


def test_with_a_deadline_of_zero_every_slice_uses_the_fallback_and_all_accounts_agree(
    address: Address, records: Path
) -> None:
    before = set(records.iterdir())
    result = adaptive_scan(source(3), address, Options(acceleration=2.0, deadline_ms=0.0), records)
    entries = result.json["slices"]
    assert [e["fallback"] for e in entries] == [True] * 3
    assert [e["mask_latency_ms"] for e in entries] == [None] * 3
    assert result.json["summary"]["images"] == 3
    assert {e["fallback_in_meta"] for e in entries} == {"true"}
    assert {e["reason_in_meta"] for e in entries} == {e["reason"] for e in entries}
    assert all("no mask within 0 ms" in e["reason"] for e in entries)
    assert result.json["summary"]["record"]["only_asked_lines"]
    (folder,) = set(records.iterdir()) - before
    recorded = summary(folder)["slices"]
    assert [e["fallback"] for e in recorded] == ["true"] * 3
    assert [e["received"] for e in recorded] == [e["mask"] for e in entries]


def test_two_scans_with_equal_measurement_ids_get_their_own_masks(
    address: Address, records: Path
) -> None:
    """The worst failure there is; so both scans run at once and differ in what they may acquire."""
    results: dict[int, list] = {}

    def run(seed: int) -> None:
        played, _ = play(
            source(4, measurement_id="same", seed=seed),
            sequence(acceleration=2.0 if seed == 1 else 3.0, seed=seed),
            address,
            CONFIG,
        )
        results[seed] = played

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    before = set(records.iterdir())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, n_lines in ((1, 32), (2, 21)):
        assert [len(p.counters) for p in results[seed]] == [n_lines] * 4
    folders = set(records.iterdir()) - before
    asked = [[e["asked"] for e in summary(folder)["slices"]] for folder in folders]
    for seed in (1, 2):
        mine = [list(p.counters) if not p.fallback else None for p in results[seed]]
        matches = [
            all(m is None or m == a for m, a in zip(mine, other, strict=True)) for other in asked
        ]
        assert sum(matches) == 1, "every mask is one that the host made for this scan"
    assert not any(p.fallback for played in results.values() for p in played)


def test_a_scan_without_partner_sends_no_mask_and_still_gives_images(
    address: Address, records: Path
) -> None:
    before = set(records.iterdir())
    data = source(2)
    with MrdClient(address.host, address.port) as client:
        client.start(CONFIG, with_user_parameter(data.header, SCAN_TOKEN, "nobody-has-this"))
        client.send_all(data.acquisitions)
        images = client.finish()
    assert len(series(images, SERIES)) == 2
    (folder,) = set(records.iterdir()) - before
    entries = summary(folder)["slices"]
    assert [e["sent"] for e in entries] == [False, False]
    assert entries[0]["predicted_because"] == "no sequence has this scan token"
    messages = (folder / "masks.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["message"]["kind"] for line in messages]
    assert "mask" not in kinds


def test_a_sequence_restarted_in_mid_scan_gets_no_mask_of_its_former_scan(
    address: Address,
) -> None:
    """The scanner's control computer restarts after slice 0; the MRD stream of before lives on."""
    data, plan = source(2), sequence()
    hello = hello_of(data.geometry, plan, "token-before")
    lines = [a for a in data.acquisitions if int(a.header["slice"]) == 1]
    with MrdClient(address.host, address.port) as client:
        port = SequencePort(address.mask_endpoint, hello)
        client.start(CONFIG, with_user_parameter(data.header, SCAN_TOKEN, "token-before"))
        assert port.wait_ready(30)
        port.close()
        with (
            SequencePort(address.mask_endpoint, hello) as again,
            SequencePort(
                address.mask_endpoint, replace(hello, scan_token="token-after")
            ) as restarted,
        ):
            client.send_all(lines)
            for one in (again, restarted):
                assert one.poll(Scope(slice=1), time.monotonic() + 1.0) is None
        images = client.finish()
    assert len(series(images, SERIES)) == 1, "all lines came, so the image comes"


def test_masks_leave_in_time_while_nothing_is_reconstructed(host: Host, address: Address) -> None:
    """40 slices, of which the worker takes none until the last line is sent."""
    assert host.pool is not None
    worker, n_slices = host.pool.get().pid, 40
    os.kill(worker, signal.SIGSTOP)

    def on_slice(played: Played) -> None:
        if played.key[0] == n_slices - 1:
            os.kill(worker, signal.SIGCONT)

    try:
        played, images = play(source(n_slices), sequence(), address, CONFIG, on_slice)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert [p.fallback for p in played] == [False] * n_slices
    assert len(series(images, SERIES)) == n_slices


def test_repetitions_share_the_mask_of_the_first(address: Address) -> None:
    played, images = play(source(1, n_repetitions=3), sequence(), address, CONFIG)
    assert {p.counters for p in played} == {played[0].counters}
    assert [p.fallback for p in played] == [False] * 3
    assert len(series(images, SERIES)) == 3


def test_the_command_scans_a_file_whose_first_axis_is_the_repetition(
    address: Address, tmp_path: Path
) -> None:
    """Only the first of two repetitions waits for a mask: the second has no latency to show."""
    path, result = tmp_path / "repeated.h5", tmp_path / "result.json"
    with h5py.File(path, "w") as file:
        file["kspace"] = scanned(n_ky=64, n_coils=4, n_slices=2).kspace
    host = ["--host", f"{address.host}:{address.port}", "--mask-endpoint", address.mask_endpoint]
    command = ["scan", str(path), "--first-axis", "repetition", "--acceleration", "2", *host]
    assert main([*command, "--no-report", "--json", str(result)]) == 0
    entries = json.loads(result.read_text())["slices"]
    assert [(e["slice"], e["repetition"]) for e in entries] == [(0, 0), (0, 1)]
    assert entries[0]["mask"] == entries[1]["mask"]
    assert [e["fallback"] for e in entries] == [False, False]
    assert [e["mask_latency_ms"] is None for e in entries] == [False, True]


def test_with_masks_for_each_repetition_every_repetition_is_answered(address: Address) -> None:
    played, images = play(source(1, n_repetitions=3), sequence(repetition="each"), address, CONFIG)
    assert [p.latency_ms is not None for p in played] == [True] * 3
    assert len(series(images, SERIES)) == 3


def test_whole_echo_trains_are_acquired(address: Address) -> None:
    result = adaptive_scan(source(1), address, Options(acceleration=2.0, echo_train=5))
    summary = result.json["summary"]
    assert summary["n_calibration"] % 5 == 0
    assert (summary["n_lines"] - summary["n_calibration"]) % 5 == 0
    assert summary["fallbacks"] == 0


def test_interleaved_slices_wait_for_nothing_and_need_no_fallback(
    address: Address, records: Path
) -> None:
    """12 slices in scaled real time: 20 ms stand for a shot of 250 ms, of a TSE with TR 3 s."""
    before = set(records.iterdir())
    n_slices, train, tr_ms = 12, CONTINUOUS.train, 5.0
    order = sequence(echo_order=CONTINUOUS, tr_ms=tr_ms, dummies=1, interleave=True)
    data = source(n_slices)
    start = time.monotonic()
    played, images = play(data, order, address, CONFIG)
    elapsed = time.monotonic() - start
    assert [p.fallback for p in played] == [False] * n_slices
    assert [p.latency_ms for p in played] == [None] * n_slices
    assert len(series(images, SERIES)) == n_slices
    (folder,) = set(records.iterdir()) - before
    lines = [message for message in read_record(folder) if isinstance(message, Acquisition)]
    slices = [int(line.header["slice"]) for line in lines]
    # one shot of every slice in turn, from the first to the last
    assert slices == [s for _ in range(32 // train) for s in range(n_slices) for _ in range(train)]
    counters = [int(line.header["kspace_encode_step_1"]) for line in lines]
    for one in played:
        mine = [c for c, s in zip(counters, slices, strict=True) if s == one.key[0]]
        assert sorted(mine) == sorted(one.counters)
        assert sorted(mine[:16]) == list(range(24, 40)), "the calibration comes first"
    log = (folder / "masks.jsonl").read_text()
    said = [json.loads(line)["message"] for line in log.splitlines()]
    hello = next(m for m in said if (m["kind"], m.get("role")) == ("hello", "sequence"))
    assert hello["deadline_ms"] == (11 * train + 1) * tr_ms
    assert elapsed > (32 + train) * n_slices * tr_ms / 1000, "dummies take their time, too"


def test_an_interleaved_slice_whose_mask_is_not_there_at_its_shot_uses_the_fallback(
    address: Address,
) -> None:
    """Two slices without a pause between lines: nobody can have answered by then."""
    played, images = play(
        source(2), sequence(interleave=True, echo_order=EchoOrder(train=16)), address, CONFIG
    )
    assert [p.fallback for p in played] == [True, True]
    assert len(series(images, SERIES)) == 2


def test_the_lines_of_a_scan_come_in_the_order_of_its_shots(
    address: Address, records: Path
) -> None:
    before = set(records.iterdir())
    order = sequence(echo_order=CONTINUOUS)
    (played,), _ = play(source(1), order, address, CONFIG)
    (folder,) = set(records.iterdir()) - before
    counters = [
        int(message.header["kspace_encode_step_1"])
        for message in read_record(folder)
        if isinstance(message, Acquisition)
    ]
    mask = np.zeros(N_KY, dtype=bool)
    mask[list(played.counters)] = True
    shots = [CONTINUOUS.calibration(order.plan), CONTINUOUS.adaptive(mask, order.plan)]
    assert counters == np.concatenate(shots).ravel().tolist()


def test_a_record_replays_to_the_same_masks_and_images(address: Address, records: Path) -> None:
    before = set(records.iterdir())
    _, images = play(source(2), sequence(), address, CONFIG)
    (folder,) = set(records.iterdir()) - before
    summary(folder)
    again = replay(folder, address, CONFIG)
    assert (again.n_masks, again.n_equal) == (2, 2)
    for first, second in zip(series(images, SERIES), series(again.images, SERIES), strict=True):
        np.testing.assert_allclose(second.data, first.data, rtol=1e-4, atol=1e-4)


def test_shadow_mode_predicts_and_never_sends(address: Address, records: Path) -> None:
    data, plan = source(2), sequence()
    before = set(records.iterdir())
    with (
        SequencePort(address.mask_endpoint, hello_of(data.geometry, plan, "shadowed")) as port,
        MrdClient(address.host, address.port) as client,
    ):
        client.start(
            "adaptive_modl_shadow.xml", with_user_parameter(data.header, SCAN_TOKEN, "shadowed")
        )
        assert port.wait_ready(30)
        client.send_all(data.acquisitions)
        images = client.finish()
        assert port.poll(Scope(slice=0), time.monotonic() + 0.2) is None
    assert len(series(images, SERIES)) == 2
    assert len(series(images, SERIES_MASK)) == 2
    (folder,) = set(records.iterdir()) - before
    entries = summary(folder)["slices"]
    assert [e["sent"] for e in entries] == [False, False]
    assert [len(e["received"]) for e in entries] == [N_KY, N_KY]


def test_retrospective_images_equal_those_of_the_closed_loop(address: Address) -> None:
    data = source(1)
    closed = adaptive_scan(data, address, Options(acceleration=4.0))
    with MrdClient(address.host, address.port) as client:
        client.start("adaptive_modl_retrospective.xml", data.header)
        rng = np.random.default_rng(3)
        order = rng.permutation(N_KY)  # the calibration lines anywhere in between
        marked = [data.acquisitions[i] for i in order]
        for line in marked:
            line.header["flags"] = int(line.header["flags"]) & ~Flag.LAST_IN_SLICE
        client.send_all(marked)
        images = client.finish()
    mask = np.flatnonzero(series(images, SERIES_MASK)[0].data[0, 0, 0])
    assert mask.tolist() == closed.json["slices"][0]["mask"]
    np.testing.assert_allclose(
        series(images, SERIES)[0].data[0, 0].T, closed.images[0], rtol=1e-3, atol=1e-4
    )


def test_the_host_answers_queries_and_life_signs(host: Host, address: Address) -> None:
    with socket.create_connection((address.host, address.port)) as sock:
        sock.sendall(write_message(Query(5, "gadgetron::info::python")))
        read = SocketReader(sock)
        assert read_message(read) == Response(5, "1")
        sock.sendall(write_message(Query(6, "no::such")))
        assert read_message(read) == Response(6, "Unknown query")
        sock.sendall(write_message(ConfigFile("isalive.xml")) + write_message(Close()))
        assert read_message(read) == Close()


@pytest.mark.parametrize("repetition", ["each", "first"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_one_two_and_five_repetitions_are_played_in_both_ways(
    address: Address, n: int, repetition: Literal["each", "first"]
) -> None:
    scan = source(1, n_repetitions=n)
    played, images = play(scan, sequence(repetition=repetition), address, CONFIG)
    assert [one.key for one in played] == [(0, i) for i in range(n)]
    assert len(images) >= n
    asked = 1 if repetition == "first" else n
    assert sum(one.latency_ms is not None for one in played) == asked
    assert all(one.answer for one in played)  # what a watcher is shown
