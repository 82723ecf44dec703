"""The worker process: runs the heavy end of the pipelines, one item at a time.

Started by the front as `python -m gadgets.worker.process FD DEVICE`, with one end of a socket pair
as `FD`. Every scan has a thread that holds its chain of generators, and scans compute in turns of
one slice. The process ends with the front and with nothing else: signals to stop are the front's
alone, which lets scans finish first.
"""

import ctypes
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from typing import NoReturn

from .. import logs
from ..errors import GadgetError, GadgetsError, place_of
from ..mrd.geometry import Geometry
from ..mrd.items import Frame, Image, Item
from ..pipeline.build import parse
from ..pipeline.catalogue import OURS, Catalogue
from ..pipeline.chain import chain, split
from ..pipeline.models import Models, chosen_device
from ..pipeline.own_files import SourceFile
from ..pipeline.own_gadgets import import_files
from ..pipeline.scan import Scan
from .memory import keep_memory
from .shared_memory import Json, NoFileError, SharedMemoryPipe, pack, unpack

log = logging.getLogger(__name__)

# Under our own front, which must answer within milliseconds on the same cores, and yet a part of
# the machine: beside a busy process per core the worker has a quarter of each at 5, a tenth at 10
# and a seventieth at 19. Masks beside a reconstruction took (median, p99, one noisy machine) 16 and
# 35 to 122 ms at 5, 8 and 15 at 10, 9 and 16 at 19.
NICENESS = 10


ALIVE_S = 1.0  # between two signs of life
LITTLE = 0.5  # of one core; undisturbed it uses one and more
# Scans that compute at the same time. With two, a short scan need not wait for a slice of a long
# one, and the throughput is the same; a GPU's memory holds one.
AT_ONCE = {"cpu": 2}
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Turns:
    """Whose turn it is to compute: who has waited longest, and `n` at a time.

    A plain semaphore mostly goes back to whoever gave it up.
    """

    def __init__(self, n: int = 1) -> None:
        self._lock = threading.Lock()
        self._queue: deque[tuple[int, threading.Event]] = deque()  # threads that wait
        self._free = n
        self._begun: dict[int, float] = {}  # when each present turn began, by its thread

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def lasted_s(self) -> float:
        """Return for how long the longest present turn has lasted, 0 where nobody computes."""
        with self._lock:
            begun = min(self._begun.values(), default=None)
        return 0.0 if begun is None else time.monotonic() - begun

    def take(self) -> None:
        """Wait for one's turn."""
        mine, me = threading.Event(), threading.get_ident()
        with self._lock:
            if self._free:
                self._free -= 1
                self._begun[me] = time.monotonic()
                return
            self._queue.append((me, mine))
        mine.wait()

    def give_up(self) -> None:
        """End one's turn, if one has it; it is the next one's at once."""
        with self._lock:
            if self._begun.pop(threading.get_ident(), None) is None:
                return
            if self._queue:
                other, theirs = self._queue.popleft()
                self._begun[other] = time.monotonic()
                theirs.set()
            else:
                self._free += 1

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give_up()


class Job:
    """One scan: a queue of items, and the thread that consumes it."""

    def __init__(
        self,
        pipe: SharedMemoryPipe,
        body: Json,
        models: Models,
        catalogue: Catalogue,
        turns: Turns,
    ) -> None:
        self._pipe, self._body, self._models, self._turns = pipe, body, models, turns
        self._catalogue = catalogue
        self._name = name = body["scan"]
        # bounded by the front; an error in the place of an item that was lost
        self.queue: queue.SimpleQueue[Item | GadgetError | None] = queue.SimpleQueue()
        self.dropped = False  # nobody takes the images
        self._thread = threading.Thread(target=self._run, name=f"scan-{name}", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether the scan has ended here."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        logs.scan_id.set(self._name)
        try:
            scan = _scan(self._models, self._body)
            heavy = split(parse(self._body["xml"], self._catalogue))[1]
            try:
                for item in chain(heavy, scan, self._feed()):
                    if isinstance(item, Image) and not self.dropped:
                        body, arrays = pack(item)
                        self._pipe.send("image", {"scan": self._name, **body}, arrays)
            finally:
                self._turns.give_up()
            self._pipe.send("done", {"scan": self._name, "counts": dict(scan.counts)})
        except Exception as error:  # the boundary: the client is told, other scans go on
            if isinstance(error, GadgetsError):
                log.error("scan %s failed: %s", self._name, place_of(error))
            else:
                log.exception("scan %s failed", self._name)
            self._pipe.send("error", {"scan": self._name, "text": _text(error)})
            while self.queue.get() is not None:
                self._taken()  # the front may be waiting for room
        finally:
            while not self.queue.empty():  # what was dropped holds open files
                self.queue.get()

    def _feed(self) -> Iterator[Item]:
        """Give the items, in turns with other scans; without one while there is nothing to do."""
        has_turn = False
        while True:
            # A turn ends with a slice, not with each of its items: a scan of one slice would wait
            # for one of a long scan before its maps, and for another one before its image.
            if has_turn and self.queue.empty():
                self._turns.give_up()
                has_turn = False
            item = self.queue.get()
            if isinstance(item, GadgetError):
                raise item
            if item is None or self.dropped:
                return
            if not has_turn:
                self._turns.take()
                has_turn = True
            yield item
            if isinstance(item, Frame):
                self._turns.give_up()
                has_turn = False
            self._taken()

    def _taken(self) -> None:
        self._pipe.send("taken", {"scan": self._name})


def serve(pipe: SharedMemoryPipe, device: str) -> None:
    """Serve scans until the front closes its end."""
    models, turns, catalogue = Models(device), Turns(AT_ONCE.get(device, 1)), OURS
    jobs: dict[str, Job] = {}
    threading.Thread(target=_live, args=(pipe, turns), name="alive", daemon=True).start()
    while True:
        try:
            kind, body, arrays = pipe.receive()
        except NoFileError as error:  # of one scan: the others go on
            job = jobs.get(error.body.get("scan", ""))
            if job is not None:
                job.queue.put(GadgetError(str(error)))
            continue
        except (EOFError, ConnectionError):
            return
        name = body.get("scan", "")
        if kind == "open":
            for over in [known for known, job in jobs.items() if job.over]:
                del jobs[over]
            jobs[name] = Job(pipe, body, models, catalogue, turns)
        elif kind == "item":
            jobs[name].queue.put(unpack(body, arrays))
        elif kind == "close":
            jobs[name].queue.put(None)
        elif kind == "drop" and name in jobs:
            jobs[name].dropped = True
            jobs[name].queue.put(None)
        elif kind == "warm":
            with turns:
                pipe.send("warm", {"error": _warm(models, body, catalogue)})
        elif kind == "own gadgets":  # the front has imported the same text
            catalogue = import_files(SourceFile(**file) for file in body["files"])


def _live(pipe: SharedMemoryPipe, turns: Turns) -> NoReturn:
    """Say again and again that the process lives, and how it fares.

    For how long its present turn has lasted, and whether it got LITTLE of the processor meanwhile.
    """
    while True:
        before, began = time.process_time(), time.monotonic()
        time.sleep(ALIVE_S)
        waited, turn_s = time.monotonic() - began, turns.lasted_s()
        starved = turn_s > waited and time.process_time() - before < LITTLE * waited
        pipe.send("alive", {"turn_s": turn_s, "starved": starved})


def _warm(models: Models, body: Json, catalogue: Catalogue) -> str:
    """Run a pipeline once; returns what went wrong."""
    try:
        scan = _scan(models, body)
        for gadget in split(parse(body["xml"], catalogue))[1]:
            gadget.warm(scan)
    except Exception as error:  # the boundary: the front is told, this process lives
        log.exception("warming failed")
        return _text(error)
    return ""


def _scan(models: Models, body: Json) -> Scan:
    return Scan(geometry=Geometry.parse(body["header"]), models=models, device=models.device)


def _text(error: Exception) -> str:
    """Return what the client is told: of a failure that we explain the explanation alone."""
    if isinstance(error, GadgetsError):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip()


def main(arguments: list[str]) -> NoReturn:
    """Run the process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a whole group gets them, as from Ctrl-C
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    logs.configure(logging.INFO, plain="worker: %(levelname)s %(message)s")
    descriptor, device = int(arguments[0]), arguments[1]
    end = socket.socket(fileno=descriptor)
    if _is_over(end):  # the front ended before the kernel knew that this process ends with it
        os._exit(0)
    keep_memory()
    pipe = SharedMemoryPipe(end)
    device = chosen_device(device)
    import torch

    if device == "cpu":
        os.nice(NICENESS)
    try:
        pipe.send("ready", {"threads": torch.get_num_threads(), "device": device})
        serve(pipe, device)
    except ConnectionError:  # the front is gone already
        pass
    logging.shutdown()
    # Threads may be computing for a client that is gone: to tear down an interpreter, and C++
    # objects, under them ends in `terminate called`.
    os._exit(0)


def _is_over(end: socket.socket) -> bool:
    """Say whether the other end of a socket pair is gone."""
    try:
        return not end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _die_with_parent() -> None:
    """Have the kernel end this process with the front, also when it hangs or is stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
