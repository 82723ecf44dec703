"""`mnet serve`: the embedded host.

Ports are bound before torch is imported, so that a client that connects at once only waits. One
thread accepts, one serves each connection; MNet runs in this process with one torch thread, the
reconstruction in the worker.
"""

import gc
import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from ..errors import ConfigError
from ..files.noise_store import NoiseStore
from ..limits.admission import Admission, make_room_for_files
from ..limits.settings import DEFAULT, Limits, Unrecorded
from ..limits.waiting import prepare
from ..logs import scan_id
from ..mask.binder import MaskService
from ..mask.curve_keys import ServerKeys
from ..mask.gate import is_loopback
from ..mrd.items import Image
from ..pipeline.build import load, parse
from ..pipeline.catalogue import OURS
from ..pipeline.chain import split
from ..pipeline.models import Models
from ..pipeline.own_files import read_folder
from ..pipeline.own_gadgets import import_files
from ..records.folder import RecordFolder
from ..records.writer import Record
from ..worker.handle import Worker, WorkerPool, WorkerScan
from .health_server import StatusServer
from .host_info import answer
from .prometheus import Metrics, Watch
from .scan_run import Services
from .session import CLIENT, PARENT, Kind, refuse, serve

log = logging.getLogger(__name__)
WARM_PIPELINE = "adaptive_modl.xml"
STOP_S = 30.0  # that running scans have to end when the host stops
TOLD_S = 5.0  # until a session that was told of the end is over
BACKLOG = 128  # connections that wait to be taken
REFUSALS = 16  # connections at a time that are told why there is no session for them
ACCEPT_AGAIN_S = 0.1  # after a failure: descriptors come free within a scan, and clients wait


class Monitor(Protocol):
    """Shows a host at work, and answers probes in place of the status server."""

    port: int
    status_port: int | None

    def watch(self, session: str) -> Watch:
        """Return who looks on at a session."""

    def start(
        self,
        *,
        trouble: Callable[[], str],
        unready: Callable[[], str],
        metrics: Callable[[], bytes],
        queued: Callable[[], float],
    ) -> None:
        """Begin to show and to answer."""

    def close(self) -> None:
        """Stop it."""


class Host:
    """A running host; a context manager that stops it.

    `external_port` is for C++ Gadgetrons whose external node says `<connect port=.../>`. `noise` is
    the folder of noise measurements, `pipelines` one whose XML clients may name beside ours.
    `status_port` is for probes and metrics over HTTP, on loopback; a `monitor` has ports of its own
    and answers them itself. `gadgets` is a folder of gadgets
    that pipelines may name beside ours; ConfigError if it cannot be trusted or read. An `address`
    that is not loopback is refused, with a ConfigError, unless `guarded` says that a firewall or a
    tunnel decides who reaches it: MRD knows no keys. `limits` say
    what one client may take; ConfigError if the system has not the files for it. `unrecorded` says
    what becomes of scans that cannot be recorded (`RecordFolder`); ConfigError if none can be.
    `stop_s` is how long running scans may take to end once the host is to stop.
    """

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        port: int = 9002,
        external_port: int | None = None,
        mask_endpoint: str = "tcp://127.0.0.1:9004",
        mask_keys: ServerKeys | None = None,
        records: Path | None = None,
        noise: Path | None = None,
        pipelines: Path | None = None,
        gadgets: Path | None = None,
        device: str = "auto",
        allow_inline: bool = False,
        status_port: int | None = None,
        stop_s: float = STOP_S,
        limits: Limits = DEFAULT,
        unrecorded: Unrecorded = "go-on",
        guarded: bool = False,
        monitor: Monitor | None = None,
    ) -> None:
        require_guarded(address, guarded=guarded)
        make_room_for_files(limits.sessions)
        self._limits = limits
        self._admission = Admission(limits.sessions)
        self._refusals = threading.Semaphore(REFUSALS)
        self._deaf: dict[str, str] = {}  # why a listener cannot take connections, by its name
        if pipelines is not None and not pipelines.is_dir():
            raise ConfigError(f"pipelines: {pipelines} is no folder")
        if records is not None:
            RecordFolder(records).require_writable()
        self._own = () if gadgets is None else read_folder(gadgets)
        self._catalogue = OURS
        self.records = records
        self._records: RecordFolder | None = None
        self._device = device
        self._warm = threading.Event()
        self._warm_error: Exception | None = None
        self._unready = "the models are being loaded"
        self.pool: WorkerPool | None = None
        self._models = Models()
        self._stopping = False
        self._stop_s = stop_s
        self.metrics = metrics = Metrics()
        if records is not None:
            self._records = RecordFolder(records, unrecorded, metrics.unrecorded.inc)
        metrics.watch("ready", "1 if a scan would get its masks", lambda: float(not self.unready()))
        metrics.watch("queue_items", "Items queued for the worker", self._queued)
        metrics.watch("keys_refused", "Handshakes refused", lambda: float(self._masks.refused))
        with ExitStack() as bound:  # all is let go where a part of it cannot be bound
            self._listener = bound.enter_context(
                socket.create_server((address, port), backlog=BACKLOG)
            )
            self.port: int = self._listener.getsockname()[1]
            self._parents: socket.socket | None = None
            self.external_port: int | None = None
            if external_port is not None:
                self._parents = bound.enter_context(
                    socket.create_server((address, external_port), backlog=BACKLOG)
                )
                self.external_port = self._parents.getsockname()[1]
            self._masks = MaskService(mask_endpoint, keys=mask_keys)
            bound.callback(self._masks.close)
            self.mask_endpoint = self._masks.endpoint
            self._status: StatusServer | Monitor | None = monitor
            self.status_port: int | None = None
            if monitor is not None:
                monitor.start(
                    trouble=self._trouble,
                    unready=self.unready,
                    metrics=metrics.text,
                    queued=self._queued,
                )
                self.status_port = monitor.status_port
            elif status_port is not None:
                self._status = StatusServer(
                    status_port, trouble=self._trouble, unready=self.unready, metrics=metrics.text
                )
                self.status_port = self._status.port
            bound.pop_all()
        self._services = Services(
            models=self._models,
            masks=self._masks,
            open_worker=self._open_worker,
            new_record=partial(new_record, self._records),
            answer=answer,
            wait_warm=self._warm_session,
            allow_inline=allow_inline,
            load=partial(load, extra=pipelines),
            catalogue=lambda: self._catalogue,
            noise=None if noise is None else NoiseStore(noise),
            metrics=metrics,
            limits=limits,
            watch=None if monitor is None else monitor.watch,
        )
        self._serve(self._listener, CLIENT)
        if self._parents is not None:
            self._serve(self._parents, PARENT)
        threading.Thread(target=self._load, name="warm", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def wait_warm(self) -> None:
        """Wait until the models are loaded and the worker is up; raises what prevented it."""
        self._warm.wait()
        if self._warm_error is not None:
            raise self._warm_error

    def _warm_session(self) -> None:
        """Wait until a session can begin on this thread."""
        self.wait_warm()
        import torch

        # For every thread anew: transforms in one that has not been told use all cores, and wait
        # for those where the worker computes.
        torch.set_num_threads(1)

    def unready(self) -> str:
        """Say why a scan would get no masks now, "" where it would."""
        deaf = next(iter(self._deaf.values()), "")
        return self._unready or deaf or (self._records.trouble() if self._records else "")

    def close(self) -> None:
        """Take no more scans, let running ones end, and stop the worker and the mask channel.

        A scan that has not ended after `stop_s` is told and ended.
        """
        if self._stopping:
            return
        self._stopping = True
        self._unready = "the host is stopping"
        if self._status is not None:
            self._status.close()
        for listener in filter(None, (self._listener, self._parents)):
            with suppress(OSError):  # some systems refuse; Linux wakes who waits in accept
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if self.pool is not None and not self._warm.is_set():
            self.pool.close()  # nobody needs the models that are being loaded
        self._warm.wait(60)
        connections = self._services.connections
        connections.stop(self._stop_s)
        connections.wait(TOLD_S)
        if self.pool is not None:
            self.pool.close()
        connections.wait(TOLD_S)  # none may compute while the interpreter is torn down
        self._masks.close()

    def _serve(self, listener: socket.socket, kind: Kind) -> None:
        """Accept on a thread of its own; every connection is a session of this kind."""
        threading.Thread(
            target=self._accept, args=(listener, kind), name="accept", daemon=True
        ).start()

    def _accept(self, listener: socket.socket, kind: Kind) -> None:
        """Take connections until the host closes; one that fails is no reason to take no more."""
        who = kind.manner.peer
        while True:
            try:
                sock, peer = listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                if who not in self._deaf:
                    log.error("no connection can be taken, but we go on trying: %s", error)
                self._deaf[who] = f"no connection of a {who} can be taken: {error}"
                time.sleep(ACCEPT_AGAIN_S)
                if not _waits(listener):  # whoever it was has given up
                    self._deaf.pop(who, None)
                continue
            self._deaf.pop(who, None)
            log.info("connection from %s", peer[0])
            self._take(sock, kind)

    def _take(self, sock: socket.socket, kind: Kind) -> None:
        """Have a connection served on a thread of its own, or refused in words."""
        welcome = self._admission.enter()
        if not welcome:
            self.metrics.refused.inc()
            log.warning("refused: there are %d sessions already", self._limits.sessions)
        try:
            prepare(sock)
            threading.Thread(
                target=self._session if welcome else self._refuse,
                args=(sock, kind),
                name="session",
                daemon=True,
            ).start()
        except (OSError, RuntimeError) as error:  # it left already; no thread can be started
            log.error("a connection is dropped: %s", error)
            sock.close()
            if welcome:
                self._admission.leave()

    def _session(self, sock: socket.socket, kind: Kind) -> None:
        try:
            serve(sock, self._services, kind)
        finally:
            self._admission.leave()

    def _refuse(self, sock: socket.socket, kind: Kind) -> None:
        """Say why, to so many at a time; others learn it from the end of their connection."""
        with sock:
            if self._refusals.acquire(blocking=False):
                try:
                    refuse(sock, kind, self._limits)
                finally:
                    self._refusals.release()

    def _load(self) -> None:
        """Import torch, load weights and run everything once."""
        try:
            self._catalogue = import_files(self._own)
            self.pool = WorkerPool(self._device, self._own, self._limits.queue_gb)
            worker = self.pool.get()  # loads torch while this process does
            import torch

            torch.set_num_threads(1)  # a mask net this small only loses by more
            self._run_once(worker)
            gc.collect()
            gc.freeze()  # all of torch stays: no collection in mid-scan need walk through it
            log.info("ready on %s", worker.device)
        except Exception as error:  # sessions report it to their clients
            if not self._stopping:
                log.exception("the host cannot start")
            self._warm_error = error
            self._unready = self._trouble()
        finally:
            self._warm.set()

    def _run_once(self, worker: Worker) -> None:
        """Run both ends of the adaptive pipeline on nothing, so that a first scan is not slow."""
        from .rehearsal import header, rehearse

        xml = load(WARM_PIPELINE)
        with ThreadPoolExecutor(1) as both:
            warm = both.submit(worker.warm, xml, header().decode(), 120.0)
            unready = rehearse(split(parse(xml))[0], self._models)
            warm.result()
        self._unready = unready
        if self._unready:  # pipelines that do without can still run
            log.error("no mask can be predicted: %s", self._unready)

    def _trouble(self) -> str:
        """Say why a restart could help, "" while it cannot."""
        return f"the host cannot start: {self._warm_error}" if self._warm_error else ""

    def _queued(self) -> float:
        return 0.0 if self.pool is None else float(self.pool.queued())

    def _open_worker(self, xml: str, header: str, on_image: Callable[[Image], None]) -> WorkerScan:
        if self.pool is None:
            raise RuntimeError("no worker: the host is not warm")
        return self.pool.get().open(xml, header, on_image)


def _waits(listener: socket.socket) -> bool:
    """Say whether a connection waits to be taken."""
    ready = select.poll()
    ready.register(listener, select.POLLIN)
    return bool(ready.poll(0))


def require_guarded(address: str, *, guarded: bool) -> None:
    """Raise ConfigError for an address that others reach and that nothing guards."""
    if not (guarded or address == "localhost" or is_loopback(address)):
        raise ConfigError(
            f"MRD on {address}: expected a loopback address (127.0.0.1), because MRD knows no keys "
            "and whoever reaches the port may send scans. Where a firewall or a tunnel admits the "
            "scanner alone, say so with --address-is-guarded (docs/security.md)"
        )


def new_record(records: RecordFolder | None) -> Record | None:
    """Start the record of this thread's scan; None without a folder, and as `RecordFolder.new`."""
    if records is None:
        return None
    return records.new(f"{time.strftime('%Y%m%d-%H%M%S')}-{scan_id.get()}")
