"""A host without any science: a binder and a reconstruction that can be told to break one rule.

Written from the contract, not with `gadgets.mask.binder`, so that a defect is one line.
"""

import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zmq

from gadgets.conformance.recon_peer import CALIBRATION
from gadgets.mask.codec import Codec, MaskProtocolError
from gadgets.mask.messages import (
    Ack,
    Applied,
    Bye,
    ErrorMessage,
    Hello,
    MaskMessage,
    Nack,
    Scope,
    Welcome,
)
from gadgets.mask.recon_end import ReconLink, Unpaired
from gadgets.mask.recon_port import RemoteReconPort
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import IMAGE_HEADER
from gadgets.mrd.items import Acquisition, Image
from gadgets.mrd.messages import Close, Header, read_message, write_message
from gadgets.mrd.sockets import SocketReader

RESEND_S = 0.05


@dataclass
class FakeScan:
    hello: Hello
    peers: list[bytes]
    ready: bool = False
    gone: bool = False
    unanswered: dict[str, tuple[MaskMessage, float, float]] = field(default_factory=dict)


class FakeRecon:
    """`defect` names the rule to break, "" none."""

    def __init__(self, defect: str) -> None:
        self.defect = defect
        self.codec = Codec()
        self.lock = threading.RLock()
        self.scans: dict[str, FakeScan] = {}
        self.open: set[str] = set()  # tokens of MRD headers
        self.number = 0
        self.context: Any = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.router.setsockopt(zmq.MAXMSGSIZE, 64 * 1024)
        self.endpoint = f"tcp://127.0.0.1:{self.router.bind_to_random_port('tcp://127.0.0.1')}"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.outbox: list[tuple[bytes, Any]] = []
        self.stopping = False
        self.threads = [threading.Thread(target=t) for t in (self.channel, self.accept)]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        self.stopping = True
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()
        self.router.close()
        self.context.term()

    # ---- the mask channel

    def channel(self) -> None:
        while not self.stopping:
            if self.router.poll(10):
                peer, *frames = self.router.recv_multipart()
                with self.lock:
                    self.receive(peer, frames)
            with self.lock:
                self.resend()
                for peer, message in self.outbox:
                    self.router.send_multipart([peer, *self.codec.encode(message)])
                self.outbox.clear()

    def receive(self, peer: bytes, frames: list[bytes]) -> None:
        try:
            message = self.codec.decode(frames)
        except MaskProtocolError as error:
            if error.reason != self.defect:
                word = ErrorMessage(reason=error.reason, detail=error.detail)
                self.outbox.append((peer, word))
            return
        if isinstance(message, Hello):
            self.greet(peer, message)
            return
        scan = next((s for s in self.scans.values() if peer in s.peers), None)
        if scan is None or isinstance(message, ErrorMessage | Bye):
            return
        stubborn = self.defect in ("duplicate", "late-mask", "fallback-at-deadline")
        if isinstance(message, Ack | Nack) and message.message_id is not None:
            late = isinstance(message, Nack)
            if not (stubborn and (self.defect == "late-mask") == late):
                scan.unanswered.pop(message.message_id, None)
        if isinstance(message, Applied) and not stubborn:
            # of this scope only: the next slice's lines may overtake this word on their own socket
            for message_id, (mask, _, _) in list(scan.unanswered.items()):
                if mask.scope == message.scope:
                    del scan.unanswered[message_id]

    def greet(self, peer: bytes, hello: Hello) -> None:
        scan = self.scans.setdefault(hello.scan_token, FakeScan(hello=hello, peers=[]))
        scan.peers.append(peer)
        self.announce(hello.scan_token)

    def announce(self, token: str) -> None:
        scan = self.scans.get(token)
        if scan is None or self.defect == "ready":
            return
        lenient = self.defect in ("two-sequences", "restart", "foreign-mask")
        paired = (token in self.open or self.defect == "foreign-mask") and (
            len(scan.peers) == 1 or lenient
        )
        scan.ready = paired
        word = Welcome(scan_token=token, paired=paired, ready=paired, reason="")
        self.outbox += [(peer, word) for peer in scan.peers]

    def resend(self) -> None:
        now = time.monotonic()
        for scan in self.scans.values():
            for message_id, (mask, until, at) in list(scan.unanswered.items()):
                if now > until and self.defect != "fallback-at-deadline":
                    del scan.unanswered[message_id]
                elif now > at:
                    if self.defect == "duplicate":
                        mask = replace(mask, reason=str(now))
                    self.outbox.append((scan.peers[-1], mask))
                    scan.unanswered[message_id] = mask, until, now + RESEND_S

    # ---- the MRD stream

    def accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with sock, suppress(EOFError, OSError):
                self.serve(sock)

    def serve(self, sock: socket.socket) -> None:
        read = SocketReader(sock)
        lines: dict[int, set[int]] = {}
        decided: set[int] = set()
        token, center = "", 0
        while not isinstance(message := read_message(read), Close):
            if isinstance(message, Header):
                geometry = Geometry.parse(message.xml)
                token, center = geometry.scan_token or "", geometry.center
                with self.lock:
                    self.open.add(token)
                    self.announce(token)
            elif isinstance(message, Acquisition):
                number = int(message.header["slice"])
                lines.setdefault(number, set()).add(int(message.header["kspace_encode_step_1"]))
                with self.lock:
                    if number not in decided and self.complete(token, lines[number]):
                        decided.add(number)
                        self.decide(token, center, number)
        for number, got in lines.items():
            if self.defect != "lines-as-applied" or number:
                sock.sendall(write_message(self.image(token, number, got)))
        sock.sendall(write_message(Close()))

    def scan_of(self, token: str) -> FakeScan | None:
        if self.defect == "foreign-mask" and token not in self.scans:
            return next(reversed(self.scans.values()), None)
        return self.scans.get(token)

    def complete(self, token: str, got: set[int]) -> bool:
        scan = self.scan_of(token)
        if scan is None:
            return False
        wanted = scan.hello.calibration
        return set(wanted[: 8 if self.defect == "calibration-first" else None]) <= got

    def decide(self, token: str, center: int, number: int) -> None:
        scan = self.scan_of(token)
        if scan is None or not scan.ready or self.defect == "answered":
            return
        hello = scan.hello
        if hello.center != center and self.defect != "disagreement":
            word = Nack(
                scan_token=hello.scan_token, message_id=None, reason="disagreement", detail=""
            )
            self.outbox.append((scan.peers[-1], word))
            return
        self.number += -1 if self.defect == "older-sequence-number" else 1
        mask = MaskMessage(
            message_id=str(uuid.uuid4()),
            scan_token=hello.scan_token,
            sequence_no=1000 + self.number,
            scope=Scope(slice=number),
            ky_min=hello.ky_min,
            ky_max=hello.ky_max,
            counters=self.choose(hello),
            model="",
            reason="",
        )
        now = time.monotonic()
        scan.unanswered[mask.message_id] = mask, now + hello.deadline_ms / 1000, now

    def choose(self, hello: Hello) -> tuple[int, ...]:
        movable = [c for c in hello.acquirable if c not in hello.calibration]
        chosen = movable[: hello.n_lines - len(hello.calibration)]
        calibration = list(hello.calibration)
        if self.defect == "budget":
            chosen = movable[: len(chosen) + hello.group_size]
        elif self.defect == "group-size":
            chosen = chosen[1:]
        elif self.defect == "window":
            chosen[0] = hello.ky_min
        elif self.defect == "calibration-kept":
            calibration[0] = movable[-1]
        return tuple(sorted([*calibration, *chosen]))

    def image(self, token: str, number: int, got: set[int]) -> Image:
        scan = self.scan_of(token)
        fallback = scan is not None and got == set(scan.hello.fallback)
        header = np.zeros(1, IMAGE_HEADER)[0]
        header["version"], header["data_type"], header["image_type"] = 1, 5, 1
        header["matrix_size"], header["channels"] = (8, 8, 1), 1
        header["slice"], header["image_series_index"] = number, 1
        said = "false" if self.defect == "fallback-marked" else str(fallback).lower()
        data = np.zeros((1, 1, 8, 8), np.float32)
        return Image(header=header, data=data, meta={"mnet_fallback": said})


@contextmanager
def fake_recon(defect: str = "") -> Iterator[FakeRecon]:
    recon = FakeRecon(defect)
    try:
        yield recon
    finally:
        recon.close()


class MaskdRecon(FakeRecon):
    """The same MRD side, its masks sent by our own `RemoteReconPort` through another's binder."""

    def __init__(self, port: RemoteReconPort) -> None:
        super().__init__("")
        self.masks = port

    def serve(self, sock: socket.socket) -> None:
        read = SocketReader(sock)
        lines: dict[int, set[int]] = {}
        decided: set[int] = set()
        header = read_message(read)
        while not isinstance(header, Header):
            header = read_message(read)
        geometry = Geometry.parse(header.xml)
        link = self.masks.open(geometry.scan_token)
        try:
            link.warmed()
            while not isinstance(message := read_message(read), Close):
                if not isinstance(message, Acquisition):
                    continue
                number = int(message.header["slice"])
                lines.setdefault(number, set()).add(int(message.header["kspace_encode_step_1"]))
                if number in decided or set(CALIBRATION) - lines[number]:
                    continue
                hello = self.hello_of(link)
                if hello is None:
                    continue
                decided.add(number)
                with suppress(Unpaired):
                    if hello.center != geometry.center:
                        link.refuse("center")
                    else:
                        link.send(Scope(slice=number), self.choose(hello), model="", reason="")
            for number, got in lines.items():
                # word of what was applied may come after the lines: they have another socket
                applied = self.applied_in(link, Scope(slice=number))
                image = self.image("", number, got)
                said = str(applied is not None and applied.fallback).lower()
                sock.sendall(write_message(replace(image, meta={"mnet_fallback": said})))
            sock.sendall(write_message(Close()))
        finally:
            link.close()

    @staticmethod
    def applied_in(link: ReconLink, scope: Scope) -> Applied | None:
        """Wait a moment for what the sequence says that it measures."""
        until = time.monotonic() + 1.0
        while link.applied(scope) is None and time.monotonic() < until:
            time.sleep(0.01)
        return link.applied(scope)

    @staticmethod
    def hello_of(link: ReconLink) -> Hello | None:
        """Wait a moment for the binder's word: the sequence may have got it before us."""
        until = time.monotonic() + 0.3
        while link.hello() is None and time.monotonic() < until:
            time.sleep(0.01)
        return link.hello()
