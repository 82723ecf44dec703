import gc
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gadgets.errors import GadgetError
from gadgets.logs import scan_id
from gadgets.mrd.geometry import SCAN_TOKEN
from gadgets.mrd.header_layouts import ImageKey
from gadgets.mrd.header_xml import with_user_parameter
from gadgets.mrd.items import Acquisition, Frame, Image, Item, PreScan, Waveform
from gadgets.pipeline.build import load, parse
from gadgets.pipeline.catalogue import OURS
from gadgets.pipeline.chain import chain, run, split
from gadgets.pipeline.intake import intake
from gadgets.pipeline.models import Models
from gadgets.pipeline.scan import Scan
from gadgets.worker import handle as worker_handle
from gadgets.worker.handle import IN_FLIGHT, Worker, WorkerPool, WorkerScan
from gadgets.worker.priority import EQUAL, SMALL, full_share
from gadgets.worker.process import NICENESS, Job, Turns
from gadgets.worker.shared_memory import pack
from tests.benchmarks.bench_busy import busy
from tests.gadgets.helpers.processes import is_running, started
from tests.gadgets.helpers.synthetic import Scanned, changed, noise, scanned

XML = load("zero_filled.xml")
ONE = scanned(n_slices=3)
ODD = scanned(n_x=21, n_ky=27, n_coils=2, n_slices=2, seed=7)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order in both processes, and no threads that wait for each other."""
    n_threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool("cpu")
    yield pool
    pool.close()


def items(one: Scanned) -> list[Item]:
    n_slices, n_coils = one.kspace.shape[:2]
    return [noise(n_coils), *(line for s in range(n_slices) for line in one.lines(s))]


def frames(one: Scanned, xml: str = XML) -> list[Item]:
    """What the front hands over."""
    scan = Scan(geometry=one.geometry)
    out = chain(split(parse(xml))[0], scan, intake(scan, items(one)))
    return [item for item in out if not isinstance(item, Acquisition | Waveform)]


def start(worker: Worker, one: Scanned, xml: str = XML) -> tuple[WorkerScan, list[Image]]:
    images: list[Image] = []
    return worker.open(xml, one.header.decode(), images.append), images


def reconstruct(worker: Worker, one: Scanned) -> list[Image]:
    scan, images = start(worker, one)
    for item in frames(one):
        scan.put(item)
    scan.finish()
    return images


def same(received: list[Image], expected: list[Item]) -> None:
    assert len(received) == len(expected)
    for a, b in zip(received, expected, strict=True):
        assert isinstance(b, Image)
        np.testing.assert_array_equal(a.data, b.data)
        assert a.header.tobytes() == b.header.tobytes()
        times = {"mnet_maps_began", "mnet_maps_ms", "mnet_recon_began", "mnet_recon_ms"}
        timeless = [{k: v for k, v in m.items() if k not in times} for m in (a.meta, b.meta)]
        assert timeless[0] == timeless[1]


def broken(frame: Item) -> Item:
    assert isinstance(frame, Frame)
    return replace(frame, calibration=np.zeros_like(frame.calibration))


def test_images_of_the_worker_are_those_of_the_plain_loop(pool: WorkerPool) -> None:
    for one in (ONE, ODD):
        expected = run(parse(XML), Scan(geometry=one.geometry), items(one))
        same(reconstruct(pool.get(), one), expected)


def test_scans_side_by_side_get_their_own_images(pool: WorkerPool) -> None:
    worker = pool.get()
    a, a_images = start(worker, ONE)
    b, b_images = start(worker, ODD)
    left, right = frames(ONE), frames(ODD)
    while left or right:
        for scan, rest in ((a, left), (b, right)):
            if rest:
                scan.put(rest.pop(0))
    b.finish()
    a.finish()
    same(a_images, run(parse(XML), Scan(geometry=ONE.geometry), items(ONE)))
    same(b_images, run(parse(XML), Scan(geometry=ODD.geometry), items(ODD)))


def test_scans_of_one_session_are_kept_apart(pool: WorkerPool) -> None:
    token = scan_id.set("session")
    try:
        first, images = start(pool.get(), ONE)
        second, others = start(pool.get(), ONE)
    finally:
        scan_id.reset(token)
    assert first.name != second.name
    for scan in (first, second):
        for item in frames(ONE):
            scan.put(item)
        scan.finish()
    same(images, run(parse(XML), Scan(geometry=ONE.geometry), items(ONE)))
    assert len(others) == len(images)


def test_an_image_leaves_before_the_scan_ends(pool: WorkerPool) -> None:
    arrived: queue.Queue[Image] = queue.Queue()
    scan = pool.get().open(XML, ONE.header.decode(), arrived.put)
    rest = frames(ONE)
    scan.put(rest[0])
    assert int(arrived.get(timeout=30).header["slice"]) == 0
    for item in rest[1:]:
        scan.put(item)
    scan.finish()


def test_counts_of_the_worker_come_back(pool: WorkerPool) -> None:
    xml = XML.replace('name="dtype" value="float"', 'name="dtype" value="ushort"')
    assert xml != XML
    scan, _ = start(pool.get(), ONE, xml)
    for item in frames(ONE):
        scan.put(item)
    scan.finish()
    assert scan.counts == {"saturated pixels": 0}


def test_an_error_ends_its_own_scan_alone(pool: WorkerPool) -> None:
    worker = pool.get()
    good, images = start(worker, ONE)
    bad, none = start(worker, ONE)
    rest = frames(ONE)
    good.put(rest[0])
    bad.put(broken(rest[0]))
    with pytest.raises(GadgetError, match="slice 0 has 0 neighbouring lines"):
        bad.finish()
    with pytest.raises(GadgetError, match="slice 0 has 0 neighbouring lines"):
        bad.put(rest[1])
    for item in rest[1:]:
        good.put(item)
    good.finish()
    assert not none
    same(images, run(parse(XML), Scan(geometry=ONE.geometry), items(ONE)))
    assert pool.get() is worker


def test_many_items_after_an_error_block_nobody(pool: WorkerPool) -> None:
    scan, _ = start(pool.get(), ONE)
    frame = frames(ONE)[0]
    scan.put(broken(frame))
    with pytest.raises(GadgetError, match="neighbouring"):
        for _ in range(1000):
            scan.put(frame)


def test_a_client_that_takes_no_image_holds_up_its_own_scan_alone(pool: WorkerPool) -> None:
    worker = pool.get()
    client_reads = threading.Event()
    taken: list[Image] = []

    def stalled(image: Image) -> None:
        client_reads.wait(60)
        taken.append(image)

    slow = worker.open(XML, ONE.header.decode(), stalled)
    for item in frames(ONE):
        slow.put(item)
    same(reconstruct(worker, ODD), run(parse(XML), Scan(geometry=ODD.geometry), items(ODD)))
    assert not taken
    client_reads.set()
    slow.finish()
    same(taken, run(parse(XML), Scan(geometry=ONE.geometry), items(ONE)))


def test_a_scan_that_is_reconstructed_too_slowly_goes_on_until_its_room_is_used_up() -> None:
    frame = frames(ONE)[0]
    room = 60 * sum(array.nbytes for array in pack(frame)[1])
    worker = Worker("cpu", queue_gb=room / 1e9)
    try:
        client_reads, n_images = threading.Event(), 0

        def take(image: Image) -> None:
            nonlocal n_images
            client_reads.wait(60)
            n_images += 1

        scan = worker.open(XML, ONE.header.decode(), take)
        n_put = 0

        def put() -> None:
            nonlocal n_put
            for _ in range(100):
                scan.put(frame)
                n_put += 1

        thread = threading.Thread(target=put)
        thread.start()
        for _ in range(600):
            if n_put == IN_FLIGHT + 60:
                break
            time.sleep(0.1)
        thread.join(0.5)
        assert n_put == IN_FLIGHT + 60, "those in the process, and those that wait in the front"
        client_reads.set()
        thread.join(60)
        scan.finish()
        assert n_images == n_put == 100
    finally:
        worker.close()


def test_a_worker_that_takes_nothing_holds_up_no_scan(pool: WorkerPool) -> None:
    worker = pool.get()
    reconstruct(worker, ONE)
    scans, frame = [start(worker, ONE) for _ in range(3)], frames(ONE)[0]
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        for scan, _ in scans:
            for _ in range(4 * IN_FLIGHT):
                scan.put(frame)
        assert time.monotonic() - began < 3.0, "no item waited for the process"
        assert scans[0][0].queued == 4 * IN_FLIGHT
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    for scan, images in scans:
        scan.finish()
        assert len(images) == 4 * IN_FLIGHT
        assert scan.queued == 0


def test_images_that_cannot_be_handed_on_fail_their_scan_alone(pool: WorkerPool) -> None:
    worker = pool.get()

    def refuse(image: Image) -> None:
        raise ValueError("no room for images")

    scan = worker.open(XML, ONE.header.decode(), refuse)
    with pytest.raises(GadgetError, match="ValueError: no room for images"):
        for item in frames(ONE):
            scan.put(item)
        scan.finish()
    scan.abandon()
    same(reconstruct(worker, ODD), run(parse(XML), Scan(geometry=ODD.geometry), items(ODD)))


def test_a_header_that_only_the_worker_sees_broken_ends_its_scan_alone(pool: WorkerPool) -> None:
    worker = pool.get()
    scan = worker.open(XML, "no header", lambda image: None)
    with pytest.raises(GadgetError, match="the MRD header is no XML"):
        scan.finish()
    same(reconstruct(worker, ODD), run(parse(XML), Scan(geometry=ODD.geometry), items(ODD)))


def test_weights_that_do_not_load_are_an_error_and_the_worker_lives(pool: WorkerPool) -> None:
    worker = pool.get()
    xml = XML.replace('value="zero_filled"', 'value="modl"').replace(
        '<property name="method"',
        '<property name="weights" value="none-such"/><property name="method"',
    )
    with pytest.raises(GadgetError, match="none-such"):
        worker.warm(xml, ONE.header.decode(), 60)
    scan, _ = start(worker, ONE, xml)
    with pytest.raises(GadgetError, match="none-such"):
        scan.finish()
    assert worker.warm(XML, ONE.header.decode(), 60)
    assert pool.get() is worker


def test_abandoned_scans_leave_no_thread_behind(pool: WorkerPool) -> None:
    worker = pool.get()
    reconstruct(worker, ODD)

    def n_threads() -> int:
        return len(os.listdir(f"/proc/{worker.pid}/task"))

    before = n_threads()
    for _ in range(5):
        failed, _ = start(worker, ONE)
        failed.put(broken(frames(ONE)[0]))
        with pytest.raises(GadgetError):
            failed.finish()
        left, _ = start(worker, ONE)
        left.abandon()
        left.abandon()
    reconstruct(worker, ODD)
    for _ in range(100):
        if n_threads() <= before:
            break
        time.sleep(0.05)
    assert n_threads() <= before


def test_a_killed_worker_fails_its_scans_and_another_takes_over() -> None:
    pool = WorkerPool("cpu")
    try:
        worker = pool.get()
        scan, images = start(worker, ONE)
        rest = frames(ONE)
        scan.put(rest[0])
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(GadgetError, match=r"worker ended \(exit status -9\)"):
            for _ in range(200):
                scan.put(rest[1])
                time.sleep(0.02)
        with pytest.raises(GadgetError, match="worker ended"):
            scan.finish()
        n_images = len(images)
        with pytest.raises(GadgetError, match="died before the scan began"):
            start(worker, ONE)
        another = pool.get()
        assert another is not worker
        same(reconstruct(another, ODD), run(parse(XML), Scan(geometry=ODD.geometry), items(ODD)))
        assert len(images) == n_images
    finally:
        pool.close()


def test_a_worker_killed_while_the_front_waits_for_the_last_image_ends_the_wait() -> None:
    worker = Worker("cpu")
    try:
        scan, _ = start(worker, ONE)
        for item in frames(ONE):
            scan.put(item)
        os.kill(worker.pid, signal.SIGSTOP)
        late, _ = start(worker, ONE)  # a stopped process cannot have finished it
        threading.Timer(0.3, os.kill, (worker.pid, signal.SIGKILL)).start()
        with pytest.raises(GadgetError, match="worker ended"):
            late.finish()
    finally:
        worker.close()


def test_a_worker_that_has_died_does_not_let_whoever_warms_it_wait() -> None:
    """A host that was interrupted while it loaded stayed for as long as that may take."""
    worker = Worker("cpu")
    worker.close()
    began = time.monotonic()
    with pytest.raises(GadgetError, match="cannot warm up: the process died"):
        worker.warm(XML, ONE.header.decode(), 60.0)
    assert time.monotonic() - began < 10


def test_a_closed_worker_process_ends(pool: WorkerPool) -> None:
    worker = Worker("cpu")
    reconstruct(worker, ODD)
    pid = worker.pid
    worker.close()
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def environment(worker: Worker) -> set[str]:
    return set(Path(f"/proc/{worker.pid}/environ").read_text().split("\0"))


def test_the_worker_gives_way_to_the_front_and_not_to_everybody(pool: WorkerPool) -> None:
    """Each step takes a fifth: 10 leaves a tenth of the share of niceness 0, 19 a seventieth."""
    worker = pool.get()
    reconstruct(worker, ODD)
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    nicer = set()
    for task in os.listdir(f"/proc/{worker.pid}/task"):
        with suppress(ProcessLookupError):  # a thread of the scan, which has ended meanwhile
            nicer.add(os.getpriority(os.PRIO_PROCESS, int(task)) - ours)
    assert nicer == {min(NICENESS, 19 - ours)}, "all threads, counted from our own niceness"
    assert 5 < NICENESS <= 10  # masks are late with less, slices starve with more


def share_of(worker: Worker) -> int:
    """The niceness of the worker's session beside others."""
    return int(Path(f"/proc/{worker.pid}/autogroup").read_text().rpartition(" ")[2])


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no autogroups here")
def test_the_worker_has_a_small_share_only_while_a_sequence_waits_for_masks() -> None:
    worker = Worker("cpu")
    try:
        reconstruct(worker, ODD)  # its device is known
        full = share_of(worker)
        assert full <= EQUAL
        adaptive = with_user_parameter(ONE.header, SCAN_TOKEN, "token").decode()
        first, second = (worker.open(XML, adaptive, lambda image: None) for _ in range(2))
        assert share_of(worker) == SMALL
        first.finish()
        assert share_of(worker) == SMALL, "another one still waits"
        second.drop()
        assert share_of(worker) == full
        start(worker, ONE)[0].finish()
        assert share_of(worker) == full, "nobody waits for masks of a scan without a sequence"
    finally:
        worker.close()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no autogroups here")
def test_a_worker_that_others_starve_gives_up_its_small_share() -> None:
    """Until no sequence waits any more; by itself it would have a tenth, and images come late."""
    large = scanned(n_x=256, n_ky=256, n_coils=8)
    xml = XML.replace('"zero_filled"', '"l1_wavelet"')
    adaptive = with_user_parameter(large.header, SCAN_TOKEN, "token").decode()
    worker = Worker("cpu")
    try:
        reconstruct(worker, ODD)
        full = share_of(worker)
        scan = worker.open(xml, adaptive, lambda image: None)
        assert share_of(worker) == SMALL
        with busy(apart=True):
            for item in frames(large, xml):
                scan.put(item)
            until = time.monotonic() + 60
            while share_of(worker) == SMALL:
                assert time.monotonic() < until, "it is content with a tenth"
                time.sleep(0.1)
        assert share_of(worker) == full
        scan.drop()
        other = worker.open(XML, adaptive, lambda image: None)
        assert share_of(worker) == SMALL, "that was another scan"
        other.drop()
    finally:
        worker.close()


@pytest.mark.parametrize(("n_threads", "weight"), [(1, 1024), (2, 1991), (4, 3906), (16, 14949)])
def test_a_session_of_n_threads_has_the_share_of_n_sessions(n_threads: int, weight: int) -> None:
    """Weights are those of the kernel's table, kernel/sched/core.c."""
    niceness = full_share(n_threads)
    assert weight == {0: 1024, -3: 1991, -6: 3906, -12: 14949}[niceness]
    assert weight / 1024 == pytest.approx(n_threads, rel=0.1)


CAP_SETPCAP, CAP_SYS_NICE = 8, 23


def may(*capabilities: int) -> bool:
    """Say whether this process has rights of the superuser's; a container's root lacks some."""
    effective = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    return all(int(effective, 16) >> one & 1 for one in capabilities)


SHARES = """
import os
from pathlib import Path
from gadgets.worker.priority import set_share
for niceness in (-3, 10, -3):
    set_share(os.getpid(), niceness)
    print(Path("/proc/self/autogroup").read_text().split()[-1])
"""


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no autogroups here")
@pytest.mark.parametrize(("rights", "shares"), [("+all", "-3 10 -3"), ("-all", "0 10 0")])
def test_who_may_not_take_more_than_others_has_an_equal_share(rights: str, shares: str) -> None:
    if not may(CAP_SETPCAP, CAP_SYS_NICE):
        pytest.skip("no rights to take away here")
    command = ["setpriv", "--bounding-set", rights, sys.executable, "-c", SHARES]
    done = subprocess.run(
        command, start_new_session=True, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.split() == shares.split()


def test_threads_of_the_worker_wait_asleep_unless_the_user_says_otherwise(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "OMP_WAIT_POLICY=passive" in environment(pool.get())
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    worker = Worker("cpu")
    try:
        reconstruct(worker, ODD)
        assert "OMP_WAIT_POLICY=active" in environment(worker)
    finally:
        worker.close()


class Told:
    """In place of the pipe to the front: notes of which scan an image is."""

    def __init__(self, n_scans: int) -> None:
        self.images: list[str] = []
        self.over = threading.Semaphore(0)
        self.n_scans = n_scans

    def send(self, kind: str, body: dict[str, Any], arrays: Any = ()) -> None:
        if kind == "image":
            self.images.append(body["scan"])
        elif kind in ("done", "error"):
            assert kind == "done", body
            self.over.release()


def calibration_of(frame: Item) -> PreScan:
    assert isinstance(frame, Frame)
    lines = frame.kspace[:, :, frame.calibration]
    return PreScan(key=frame.key, lines=lines, counters=np.flatnonzero(frame.calibration))


def test_scans_compute_in_turns_of_a_slice_whoever_came_first() -> None:
    told, turns, models = Told(3), Turns(), Models()
    slices = {"large": 6, "small": 2, "one": 1}
    frame = frames(ONE)[0]
    turns.take()  # while it is ours, everything is put
    jobs = []
    for name, n in slices.items():
        body = {"scan": name, "xml": XML, "header": ONE.header.decode()}
        job = Job(told, body, models, OURS, turns)  # type: ignore[arg-type]
        for _ in range(n):
            if name != "large":  # with one turn an item it would have two images between these
                job.queue.put(calibration_of(frame))
            job.queue.put(frame)
        job.queue.put(None)
        jobs.append(job)
        while turns.waiting < len(jobs):
            time.sleep(0.001)
    turns.give_up()
    for _ in slices:
        assert told.over.acquire(timeout=60)
    expected = ["large", "small", "one", "large", "small", *4 * ["large"]]
    assert told.images == expected, "each one's maps and image in the same turn"


def test_so_many_compute_at_once_and_the_others_wait() -> None:
    turns, inside, may_end = Turns(2), threading.Semaphore(0), threading.Event()

    def compute() -> None:
        with turns:
            inside.release()
            may_end.wait(60)

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        assert inside.acquire(timeout=60)
    assert not inside.acquire(timeout=0.1)
    assert (turns.waiting, turns.lasted_s() > 0.1) == (1, True)
    may_end.set()
    for thread in threads:
        thread.join(60)
    assert (turns.waiting, turns.lasted_s()) == (0, 0.0)
    turns.give_up()  # one that nobody has: no third one comes of it
    may_end.clear()
    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        inside.acquire(timeout=0.2)
    assert turns.waiting == 1
    may_end.set()
    for thread in threads:
        thread.join(60)


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_noticed_and_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = WorkerPool("cpu")
    try:
        worker = pool.get()
        reconstruct(worker, ODD)  # it is ready
        monkeypatch.setattr(worker_handle, "HUNG_S", 3.0)
        scan, _ = start(worker, ONE)
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(GadgetError, match="worker said nothing for 4 s in mid-scan"):
            scan.finish()
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)
        another = pool.get()
        assert another is not worker
        monkeypatch.undo()
        same(reconstruct(another, ODD), run(parse(XML), Scan(geometry=ODD.geometry), items(ODD)))
    finally:
        pool.close()


def test_a_worker_that_computes_at_one_slice_without_end_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_handle, "STUCK_S", -1.0)
    worker = Worker("cpu")
    try:
        scan, _ = start(worker, ONE)
        with pytest.raises(GadgetError, match="worker computed at one slice for 0 s in mid-scan"):
            scan.finish()
    finally:
        worker.close()


def test_signals_to_stop_are_for_the_front_alone(pool: WorkerPool) -> None:
    worker = pool.get()
    reconstruct(worker, ODD)
    scan, images = start(worker, ODD)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker.pid, number)
    for item in frames(ODD):
        scan.put(item)
    scan.finish()
    same(images, run(parse(XML), Scan(geometry=ODD.geometry), items(ODD)))


FRONT = """
import os, signal, sys, time
from gadgets.worker.handle import Worker
worker = Worker("cpu")
while not worker.ready:
    time.sleep(0.01)
if sys.argv[1] == "stopped":
    os.kill(worker.pid, signal.SIGSTOP)
print(worker.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_killed_front_takes_its_worker_along(state: str) -> None:
    with started([sys.executable, "-c", FRONT, state], stdout=subprocess.PIPE) as front:
        assert front.stdout is not None
        pid = int(front.stdout.readline())
        front.kill()
    until = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < until, "the worker outlives its front"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_worker_closed_while_it_computes_ends_without_a_complaint(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A thread that computes while the interpreter is torn down aborts the process."""
    large = scanned(n_x=96, n_ky=96, n_coils=8)
    frame = frames(large)[0]
    for _ in range(3):
        worker = Worker("cpu")
        scan, images = start(worker, large, XML.replace('"zero_filled"', '"l1_wavelet"'))
        for _ in range(4):
            scan.put(frame)
        while scan.queued == 4 and not images and not worker.turn_s:
            time.sleep(0.001)
        worker.close()
        assert worker.exit_status == 0
    assert "terminate" not in capfd.readouterr().err


def resident(worker: Worker) -> int:
    """The bytes of memory that a worker holds."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.slow
def test_the_worker_holds_after_300_slices_what_it_held_after_30() -> None:
    """Were maps of all slices kept, 270 of them would be 283 MB."""
    one = scanned(n_x=128, n_ky=128, n_coils=8)
    kspace = one.hybrid().astype(np.complex64)
    rows = np.ones(128, bool)
    calibration = np.isin(np.arange(128), range(56, 72))
    lines = kspace[:, :, calibration]
    worker, images = Worker("cpu"), queue.SimpleQueue[Image]()
    try:
        scan = worker.open(XML, one.header.decode(), images.put)
        held = {}
        for slice_ in range(300):
            key = ImageKey(0, slice_, 0, 0, 0, 0)
            scan.put(PreScan(key=key, lines=lines, counters=np.flatnonzero(calibration)))
            header = changed(one.line(64), slice=slice_).header
            scan.put(
                Frame(key=key, header=header, kspace=kspace, mask=rows, calibration=calibration)
            )
            images.get(timeout=60)
            held[slice_ + 1] = resident(worker)
        scan.finish()
    finally:
        worker.close()
    assert held[300] - held[30] < 100e6
