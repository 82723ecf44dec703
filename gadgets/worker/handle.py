"""The front's view of the worker process: open a scan, put items, get images.

One thread reads from the process. Every scan has two: one hands its items to the process, so that a
session goes on reading lines, and deciding masks, however far behind the process is; the other
hands its images on, so that a client that takes nothing holds up its own scan alone.
"""

import contextvars
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from ..errors import GadgetError, GadgetsError
from ..limits.settings import DEFAULT
from ..logs import scan_id
from ..mrd.geometry import SCAN_TOKEN
from ..mrd.items import Image, Item
from ..pipeline.own_files import SourceFile
from .outbox import Outbox
from .priority import EQUAL, SMALL, full_share, set_share
from .shared_memory import Arrays, Json, NoFileError, SharedMemoryPipe, pack, unpack

log = logging.getLogger(__name__)
IN_FLIGHT = 24  # items of one scan in the process, some eight slices; the others wait in the front
LOOK_S = 1.0  # between two looks at whether it lives
HUNG_S = 20.0  # without a sign of life, of which it gives one a second
START_S = 120.0  # the same before the first: it loads torch, perhaps from a slow disk
STUCK_S = 900.0  # at one slice: the slowest method takes 8 s for a large one on two cores
# How torch's threads wait for each other: asleep, unless the user's environment says otherwise. The
# threads of a slice that spin instead take the cores from the one that they wait for.
WAITING = {"OMP_WAIT_POLICY": "passive"}


class WorkerScan:
    """One scan's way through the worker; `most_bytes` of it may wait in the front."""

    def __init__(
        self,
        worker: "Worker",
        name: str,
        on_image: Callable[[Image], None],
        most_bytes: float = 1e9 * DEFAULT.queue_gb,
    ) -> None:
        self.name = name
        self.inbox: queue.SimpleQueue[tuple[str, Json, Arrays]] = queue.SimpleQueue()
        self.counts: dict[str, int] = {}
        self.failure: GadgetsError | None = None
        self.room = threading.Semaphore(IN_FLIGHT)
        self.over = threading.Event()
        self.ended = False  # nothing more is put into it
        self._worker = worker
        self._on_image = on_image
        self._outbox = Outbox(most_bytes)
        self._n_put = self._n_taken = 0
        for what, run in (("items", self._hand_over), ("images", self._deliver)):
            context = contextvars.copy_context()  # what is logged there is of this scan too
            threading.Thread(
                target=context.run, args=(run,), name=f"{what}-{self.name}", daemon=True
            ).start()

    @property
    def queued(self) -> int:
        """How many items wait for the worker or are in it."""
        return 0 if self.over.is_set() else self._n_put - self._n_taken

    def put(self, item: Item) -> None:
        """Queue an item, waiting only where the front has no room for more of this scan.

        Raises
        ------
        GadgetError
            If the worker failed on this scan, or died; PeerGone where nobody takes the images.
        """
        self._outbox.put(*pack(item))
        self.check()
        self._n_put += 1

    def finish(self) -> None:
        """Wait until every item is reconstructed; raises GadgetError as `put` does."""
        self.abandon()
        self.over.wait()
        self.check()

    def abandon(self) -> None:
        """Put nothing more into this scan; the worker ends its thread, also after a failure."""
        self._outbox.end()
        self.ended = True
        self._worker.weigh()

    def drop(self) -> None:
        """Reconstruct nothing more of this scan, whatever was put into it."""
        self.ended = True
        self._worker.weigh()
        try:
            self._outbox.drop(lambda: self._worker.send("drop", {"scan": self.name}))
        except GadgetsError as error:
            log.warning("the worker cannot be told to drop a scan: %s", error)

    def check(self) -> None:
        """Raise what the scan has failed with."""
        if self.failure is not None:
            raise self.failure

    def _hand_over(self) -> None:
        """Send to the worker what was put, as it has room, and then that this was all."""
        try:
            for body, arrays in self._outbox:
                self.room.acquire()
                self._outbox.unless_dropped(self._send_item, body, arrays)
            self._outbox.unless_dropped(self._worker.send, "close", {"scan": self.name})
        except GadgetsError as error:
            self.inbox.put(("error", {"text": str(error)}, []))

    def _send_item(self, body: Json, arrays: Arrays) -> None:
        self._worker.send("item", {"scan": self.name, **body}, arrays)

    def _deliver(self) -> None:
        """Take in what the worker says of this scan, up to its end."""
        while not self.over.is_set():
            kind, body, arrays = self.inbox.get()
            try:
                self._take(kind, body, arrays)
            except GadgetsError as error:
                self._fail(error)
            except Exception as error:  # whoever takes the images failed: so does this scan
                log.exception("scan %s: an image could not be handed on", self.name)
                text = f"an image could not be handed on: {type(error).__name__}: {error}"
                self._fail(GadgetError(text))

    def _take(self, kind: str, body: Json, arrays: Arrays) -> None:
        if kind == "taken":
            self._n_taken += 1
            self.room.release()
        elif kind == "image":
            image = unpack(body, arrays)
            if isinstance(image, Image):
                self._on_image(image)
        elif kind == "done":
            self.counts = body["counts"]
            self.over.set()
        elif kind == "error":
            self._fail(GadgetError(body["text"]))

    def _fail(self, failure: GadgetsError) -> None:
        self.failure = failure
        self.over.set()
        self._outbox.discard()
        self.room.release()


class Worker:
    """A worker process and the thread that reads from it; `own` are files of a site's gadgets.

    One that says nothing for HUNG_S, or computes at one slice for STUCK_S, is ended. `on_death` is
    called where the process ends and nobody closed it. Raises OSError if none can be started.
    """

    def __init__(
        self,
        device: str,
        own: Sequence[SourceFile] = (),
        on_death: Callable[[], None] = lambda: None,
        queue_gb: float = DEFAULT.queue_gb,
    ) -> None:
        ours, theirs = socket.socketpair()
        self._pipe = SharedMemoryPipe(ours)
        self._scans: dict[str, WorkerScan] = {}
        self._adaptive: set[WorkerScan] = set()  # whose sequences wait for masks
        self._share = self._full_share = EQUAL  # of its session beside others
        self._starved = False  # with a small one
        self._lock = threading.Lock()
        self._warm = threading.Event()
        self._warm_error = ""
        self._on_death = on_death
        self._most_bytes = 1e9 * queue_gb  # of a scan, in the front
        self._closing = False
        self._ended = threading.Event()
        self._heard = self.ready = False
        self.proven = False  # it has done what it was asked to, once
        self.turn_s = 0.0  # how long it computes at one slice
        self._killed_for = ""
        self.exit_status: int | None = None
        self.device = device  # once it is ready: which one `auto` was
        self.dead = False
        started: Future[subprocess.Popen[bytes]] = Future()
        threading.Thread(
            target=self._run, args=(started, theirs, device), name="worker-reader", daemon=True
        ).start()
        self._process = started.result()
        threading.Thread(target=self._watch, name="worker-watch", daemon=True).start()
        if own:
            self.send("own gadgets", {"files": [asdict(file) for file in own]})

    @property
    def pid(self) -> int:
        """The process id, for logs and tests."""
        return self._process.pid

    def open(self, xml: str, header: str, on_image: Callable[[Image], None]) -> WorkerScan:
        """Start a scan; `on_image` is called on a thread of the scan.

        Raises GadgetError if the process has died.
        """
        with self._lock:
            if self.dead:
                raise GadgetError("the reconstruction worker died before the scan began")
            name = scan_id.get()
            if not name or name in self._scans:  # no log has it, or two scans have one log
                name += uuid.uuid4().hex
            scan = WorkerScan(self, name, on_image, self._most_bytes)
            self._scans[scan.name] = scan
            if SCAN_TOKEN in header:  # of an adaptive sequence; of anything else it does no harm
                self._adaptive.add(scan)
        self.weigh()
        self.send("open", {"scan": scan.name, "xml": xml, "header": header})
        return scan

    def weigh(self) -> None:
        """Give way to the front while a sequence waits for its masks, and to nobody else's work.

        Where other sessions use up what the small share leaves, images would take minutes: it is
        given up until no sequence waits any more.
        """
        with self._lock:
            self._adaptive = {scan for scan in self._adaptive if not scan.ended}
            self._starved &= bool(self._adaptive)
            share = SMALL if self._adaptive and not self._starved else self._full_share
            if share != self._share and self.device == "cpu":
                set_share(self.pid, share)
                self._share = share

    def queued(self) -> int:
        """Return how many items of all scans wait for the process or are in it."""
        with self._lock:
            return sum(scan.queued for scan in self._scans.values())

    def warm(self, xml: str, header: str, timeout_s: float) -> bool:
        """Load the models of a pipeline, and wait until that is done; GadgetError if it fails."""
        self._warm.clear()
        self.send("warm", {"xml": xml, "header": header})
        warm = self.dead or self._warm.wait(timeout_s)  # one that died before has been told of
        if self._warm_error or self.dead:
            reason = self._warm_error or "the process died"
            raise GadgetError(f"the reconstruction worker cannot warm up: {reason}")
        return warm

    def send(self, kind: str, body: dict[str, Any], arrays: Any = ()) -> None:
        """Send to the process; its death fails the scans from the reading thread.

        Raises GadgetError where it lives and yet nothing can be sent (memory, file descriptors).
        """
        try:
            self._pipe.send(kind, body, arrays)
        except OSError as error:
            if not isinstance(error, ConnectionError) and not self.dead:
                raise GadgetError(
                    f"the reconstruction worker cannot be reached: {error}"
                ) from error
            log.debug("worker %d takes nothing more", self.pid)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._closing = True
        self._pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._ended.wait(5)

    def _run(
        self, started: Future[subprocess.Popen[bytes]], theirs: socket.socket, device: str
    ) -> None:
        """Start the process on the thread that stays with it: for the kernel that is its parent."""
        command = [sys.executable, "-m", "gadgets.worker.process", str(theirs.fileno()), device]
        try:
            with theirs:
                process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    env=WAITING | os.environ,
                    start_new_session=True,  # Ctrl-C is for the host, which ends the worker
                )
        except OSError as error:
            self._pipe.close()
            started.set_exception(error)
            return
        started.set_result(process)
        self._read()
        self._died(process)

    def _read(self) -> None:
        while True:
            try:
                kind, body, arrays = self._pipe.receive()
            except NoFileError as error:  # of one scan: the others go on
                kind, arrays = "error", []
                body = error.body | {"text": str(error)}
                log.error("%s", error)
            except (EOFError, OSError):
                return
            self._heard = True
            scan = self._scans.get(body.get("scan", ""))
            if kind == "ready":
                self.device, self.ready = body["device"], True
                self._full_share = full_share(body["threads"])
                self.weigh()
            elif kind == "alive":
                self.turn_s = body["turn_s"]
                if body["starved"]:
                    self._starved = True
                    self.weigh()
            elif kind == "warm":
                self._warm_error = body["error"]
                self.proven |= not self._warm_error
                self._warm.set()
            elif scan is not None:
                # Copies, for what is mapped is an open file, until a client takes it.
                scan.inbox.put((kind, body, [array.copy() for array in arrays]))
                self.proven |= kind == "done"
                if kind in ("done", "error"):
                    self._scans.pop(scan.name)

    def _watch(self) -> None:
        """End the process where it hangs; a pause of the whole machine counts as one look."""
        silent_s = 0.0
        while not self._ended.wait(LOOK_S):
            silent_s = 0.0 if self._heard else silent_s + LOOK_S
            self._heard = False
            if silent_s > (HUNG_S if self.ready else START_S):
                self._killed_for = f"said nothing for {silent_s:g} s"
            elif self.turn_s > STUCK_S:
                self._killed_for = f"computed at one slice for {self.turn_s:.0f} s"
            if self._killed_for:
                log.error("worker %d %s and is ended", self.pid, self._killed_for)
                self._process.kill()
                return

    def _died(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self.dead = True  # from here on no scan is opened
        self._pipe.close()
        self.exit_status = process.wait()
        self._ended.set()
        with self._lock:
            scans = list(self._scans.values())
            self._scans.clear()
        self._warm.set()
        why = self._killed_for or f"ended (exit status {self.exit_status})"
        for scan in scans:
            text = f"the reconstruction worker {why} in mid-scan"
            scan.inbox.put(("error", {"text": text}, []))
        if not self._closing:
            self._on_death()


class WorkerPool:
    """The one worker of a device, started again if it died."""

    def __init__(
        self,
        device: str,
        own: Sequence[SourceFile] = (),
        queue_gb: float = DEFAULT.queue_gb,
    ) -> None:
        self.device, self.own, self._queue_gb = device, own, queue_gb
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._closed = False

    def get(self) -> Worker:
        """Return the living worker; GadgetError once the pool is closed."""
        with self._lock:
            if self._closed:
                raise GadgetError("no worker: the host is stopping")
            if self._worker is None or self._worker.dead:
                if self._worker is not None:
                    log.error("worker %d died; starting another", self._worker.pid)
                self._worker = Worker(self.device, self.own, self._replace, self._queue_gb)
            return self._worker

    def queued(self) -> int:
        """Return how many items wait for the worker or are in it."""
        with self._lock:
            return 0 if self._worker is None else self._worker.queued()

    def close(self) -> None:
        """End the worker."""
        with self._lock:
            self._closed = True
            if self._worker is not None:
                self._worker.close()

    def _replace(self) -> None:
        """Start another worker before a scan asks; one that never worked would not."""
        with self._lock:
            again = not self._closed and self._worker is not None and self._worker.proven
        if again:
            self.get()
