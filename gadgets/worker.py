"""The worker process: runs the heavy end of the pipelines, one item at a time.

Started by the front as `python -m gadgets.worker FD DEVICE`, with one end of a socket pair as
`FD`. Every scan has a thread that holds its chain of generators; a lock lets one of them compute.
"""

import logging
import os
import queue
import socket
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator

from .gadget import Models, Scan, chain
from .geometry import Geometry
from .items import Image, Item
from .link import Link, pack, unpack
from .pipeline import parse, split

log = logging.getLogger(__name__)


class _Job:
    """One scan: a queue of items, and the thread that consumes it."""

    def __init__(self, link: Link, name: str, scan: Scan, xml: str, turn: threading.Lock) -> None:
        self._link, self._name, self._scan, self._turn = link, name, scan, turn
        self._heavy = split(parse(xml))[1]
        self.queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()  # bounded by the front
        threading.Thread(target=self._run, name=f"scan-{name}", daemon=True).start()

    def _run(self) -> None:
        try:
            with self._turn:
                for item in chain(self._heavy, self._scan, self._feed()):
                    if isinstance(item, Image):
                        body, arrays = pack(item)
                        self._link.send("image", {"scan": self._name, **body}, arrays)
            counts = dict(self._scan.counts)
            self._link.send("done", {"scan": self._name, "counts": counts})
        except Exception as error:  # the boundary: the client is told, other scans go on
            log.exception("scan %s failed", self._name)
            text = "".join(traceback.format_exception_only(error)).strip()
            self._link.send("error", {"scan": self._name, "text": text})
            while self.queue.get() is not None:
                self._taken()  # the front may be waiting for room

    def _feed(self) -> Iterator[Item]:
        while True:
            self._turn.release()
            try:
                item = self.queue.get()
            finally:
                self._turn.acquire()
            if item is None:
                return
            yield item
            self._taken()

    def _taken(self) -> None:
        self._link.send("taken", {"scan": self._name})


def serve(link: Link, device: str) -> None:
    """Serve scans until the front closes its end."""
    models, turn = Models(device), threading.Lock()
    jobs: dict[str, _Job] = {}
    while True:
        try:
            kind, body, arrays = link.receive()
        except EOFError:
            return
        name = body.get("scan", "")
        if kind == "open":
            geometry = Geometry.parse(body["header"])
            scan = Scan(geometry=geometry, models=models, counts=Counter(), device=device)
            jobs[name] = _Job(link, name, scan, body["xml"], turn)
        elif kind == "item":
            jobs[name].queue.put(unpack(body, arrays))
        elif kind == "close":
            jobs.pop(name).queue.put(None)
        elif kind == "warm":
            with turn:
                _warm(models, body["xml"], body["header"], device)
            link.send("warm")


def _warm(models: Models, xml: str, header: str, device: str) -> None:
    scan = Scan(geometry=Geometry.parse(header), models=models, device=device)
    for gadget in split(parse(xml))[1]:
        gadget.warm(scan)


def main(arguments: list[str]) -> None:
    """Run the process."""
    logging.basicConfig(level=logging.INFO, format="worker: %(levelname)s %(message)s")
    descriptor, device = int(arguments[0]), arguments[1]
    link = Link(socket.socket(fileno=descriptor))
    if device == "cpu":
        os.nice(10)  # the front must answer within milliseconds on the same cores
    import torch

    torch.set_grad_enabled(False)
    link.send("ready", {"threads": torch.get_num_threads()})
    serve(link, device)


if __name__ == "__main__":
    main(sys.argv[1:])
